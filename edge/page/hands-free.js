// Hands-free: the microphone streams without an end, and the server says when somebody speaks. Knows no page.

export class HandsFree {
  /** Is called with the level of each slice, from 0 to 1. */
  onlevel = () => {};
  on = false;
  /** Whether the server must not listen while an answer plays, because it would hear that. */
  halfDuplex = false;
  #microphone;
  #conversation;
  /** {stop} while it listens; `stop` is `null` until the microphone records. */
  #stream = null;
  #isConfigured = false;
  #ending = Promise.resolve();

  constructor(microphone, conversation) {
    this.#microphone = microphone;
    this.#conversation = conversation;
  }

  /** Whether the server hears what the microphone hears. */
  get listening() {
    return this.#stream?.stop != null;
  }

  /** Whether it listens only when it is asked to again. */
  get muted() {
    return this.#stream === null;
  }

  /** Listen from now on, until `mute`; true. Raises `MicrophoneRefused`. */
  async listen() {
    const mine = (this.#stream = { stop: null });
    try {
      await this.#microphone.open();
    } catch (error) {
      if (this.#stream === mine) this.#stream = null;
      throw error;
    }
    if (this.#stream === mine) {
      this.#configure();
      mine.stop = this.#microphone.record((samples, level) => {
        this.#conversation.stream(samples);
        if (this.#stream === mine) this.onlevel(level);
      });
    }
    return true;
  }

  /** Listen no more; what is being said is whole. */
  mute() {
    const stop = this.#stream?.stop;
    this.#stream = null;
    if (stop) this.#ending = stop().then(() => this.#conversation.endStream());
    return this.#ending;
  }

  /** From now on it is the user who says where an utterance begins and ends. */
  async leave() {
    this.on = false;
    await this.mute();
    if (this.on || !this.#isConfigured) return;
    this.#isConfigured = false;
    this.#conversation.configure({ turn_detection: "none" });
  }

  /** There is a new conversation, which knows of nothing. */
  beginAgain() {
    this.#isConfigured = false;
    if (this.listening) this.#configure();
  }

  #configure() {
    const halfDuplex = !this.#microphone.echoCancelled;
    if (this.#isConfigured && halfDuplex === this.halfDuplex) return;
    this.#isConfigured = true;
    this.halfDuplex = halfDuplex;
    this.#conversation.configure({ turn_detection: "server_vad", echo_cancelled: !halfDuplex });
  }
}
