// Hold to talk: what is said between a press and its release is one utterance. Knows no page and no button.

const RATE = 16000;
/** What is shorter than this was a tap, not speech. */
const SHORTEST_SAMPLES = RATE / 4;
/** By how much an utterance ends before the server would end it itself. */
const MARGIN_S = 0.25;

export class HoldToTalk {
  /** Is called with a turn when it is clear that it is speech. */
  onbegin = () => {};
  /** Is called with the level of each slice, from 0 to 1. */
  onlevel = () => {};
  /** Is called with a turn, and for how many milliseconds the user has been speaking. */
  onspeech = () => {};
  /** Is called when an utterance is as long as it may be. */
  onfull = () => {};
  #microphone;
  #conversation;
  /**
   * What is being said: {stop, early, samples, turn}. `stop` is `null` until the microphone records, `turn`
   * while it may still be a tap; until then the slices wait in `early`.
   */
  #utterance = null;

  constructor(microphone, conversation) {
    this.#microphone = microphone;
    this.#conversation = conversation;
  }

  /** Whether something is being said, or about to. */
  get held() {
    return this.#utterance !== null;
  }

  /** Whether the microphone records. */
  get recording() {
    return this.#utterance?.stop != null;
  }

  /** The turn that is being said. */
  get turn() {
    return this.#utterance?.turn ?? null;
  }

  /** Begin; raises `MicrophoneRefused`. False if it was over before there was a microphone. */
  async press() {
    const mine = (this.#utterance = { stop: null, early: [], samples: 0, turn: null });
    try {
      await this.#microphone.open();
    } catch (error) {
      if (this.#utterance === mine) this.#utterance = null;
      throw error;
    }
    if (this.#utterance === null) return false;
    if (this.#utterance === mine) {
      mine.stop = this.#microphone.record((samples, level) => this.#take(mine, samples, level));
    }
    return true;
  }

  /** The utterance is whole. False if it was a mere tap. */
  async release() {
    const mine = this.#utterance;
    this.#utterance = null;
    if (!mine?.stop) return true;
    await mine.stop();
    if (mine.turn) this.#conversation.end(mine.turn);
    return mine.turn !== null;
  }

  #take(mine, samples, level) {
    mine.early.push(samples);
    mine.samples += samples.length;
    this.onlevel(level);
    if (mine.samples < SHORTEST_SAMPLES) return;
    if (mine.turn === null) this.onbegin((mine.turn = this.#conversation.begin()));
    for (const slice of mine.early.splice(0)) this.#conversation.audio(mine.turn, slice);
    this.onspeech(mine.turn, (mine.samples * 1000) / RATE);
    if (this.#utterance === mine && mine.samples >= this.#longest()) this.onfull();
  }

  #longest() {
    return (this.#conversation.serverConfig.limits.max_utterance_s - MARGIN_S) * RATE;
  }
}
