// A button that is held: by mouse, finger or pen, by the space bar or Enter. Where it can only be clicked, as
// by a screen reader, or where it latches, one click holds it and the next lets go.

const KEYS = new Set([" ", "Enter"]);

export class HoldButton {
  onpress = () => {};
  onrelease = () => {};
  /** Whether it stays held until it is pressed again. */
  latches = false;
  #button;
  #isHeld = false;

  constructor(button) {
    this.#button = button;
    button.addEventListener("pointerdown", (event) => this.#pointerDown(event));
    for (const type of ["pointerup", "pointercancel", "lostpointercapture"]) {
      button.addEventListener(type, () => this.#lift());
    }
    button.addEventListener("click", (event) => this.#click(event));
    button.addEventListener("contextmenu", (event) => event.preventDefault());
    document.addEventListener("keydown", (event) => this.#keyDown(event));
    document.addEventListener("keyup", (event) => this.#keyUp(event));
    // A key or a finger that is lifted elsewhere is not seen here.
    window.addEventListener("blur", () => this.#lift());
    document.addEventListener("visibilitychange", () => this.#lift());
  }

  /** Hold it, as if it were pressed. */
  press() {
    if (this.#isHeld || this.#button.getAttribute("aria-disabled") === "true") return;
    this.#isHeld = true;
    this.#button.setAttribute("aria-pressed", "true");
    this.onpress();
  }

  /** Let go, whoever holds it. */
  release() {
    if (!this.#isHeld) return;
    this.#isHeld = false;
    this.#button.setAttribute("aria-pressed", "false");
    this.onrelease();
  }

  #flip() {
    if (this.#isHeld) this.release();
    else this.press();
  }

  #lift() {
    if (!this.latches) this.release();
  }

  #pointerDown(event) {
    if (event.button !== 0 || this.latches) return;
    this.#button.setPointerCapture(event.pointerId);
    this.press();
  }

  #click(event) {
    // Real clicks follow a pointer and were dealt with, unless it latches; others come from a program.
    if (event.detail === 0 || this.latches) this.#flip();
  }

  #keyDown(event) {
    if (!this.#isMeant(event)) return;
    event.preventDefault();
    if (event.repeat) return;
    if (this.latches) this.#flip();
    else this.press();
  }

  #keyUp(event) {
    if (!this.#isMeant(event)) return;
    event.preventDefault();
    this.#lift();
  }

  /** On the button both keys hold; where nothing has the focus, the space bar does. */
  #isMeant({ key, target, ctrlKey, altKey, metaKey }) {
    if (!KEYS.has(key) || ctrlKey || altKey || metaKey) return false;
    return target === this.#button || (target === document.body && key === " ");
  }
}
