// What the user must be told in words: one notice about each thing, all of them in one place of the page.

export class Notices {
  #element;
  /** In the order in which they are shown. */
  #texts = { link: "", microphone: "", turn: "" };

  constructor(element) {
    this.#element = element;
  }

  /** Say this about `link`, `microphone` or `turn`, in place of what was said before; "" says nothing. */
  say(about, text) {
    this.#texts[about] = text;
    const said = Object.values(this.#texts).filter(Boolean).join(" ");
    if (this.#element.textContent !== said) this.#element.textContent = said;
  }
}

/** What to say of a connection in this state. `wasOpen`: there was one before. */
export function linkNotice(state, why, wasOpen) {
  switch (state) {
    case "lost":
      if (why) return `The server lets nobody in at the moment: ${why}. Trying again …`;
      if (!wasOpen) return "The server does not answer. Trying again …";
      return "The connection is lost. Trying again …";
    case "locked":
      return why || "This server asks for an API key.";
    case "replaced":
      return "This conversation goes on in another window.";
    case "ended":
      return "The server has ended this conversation.";
    default:
      return "";
  }
}
