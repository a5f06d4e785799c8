// What was said and may have to be said again, because a socket was lost. Pure: knows no socket and no page.
//
//     say ─> [ sent on this socket, not proven | not sent yet ]          proven: forgotten
//
// The server takes messages in order, so whatever proves that it has one proves all before it. A later turn
// proves a turn, `audio_ack` proves samples, `speech_stopped` or any part of the answer proves the end of an
// utterance. Turns are counted on both sides, so that none is ever asked twice. Places in the input count
// samples at 16 kHz.

import { toBase64 } from "./base64.js";

const ENDINGS = new Set(["chunked_streaming_complete", "audio_interrupted"]);
/** What comes only after the end of its utterance. */
const LATER = new Set(["speech_stopped", "token_chunk", "semantic_chunk", "sequential_audio"]);
const REFUSALS = new Set(["busy", "overloaded"]);

/** Whether the server will not begin a turn. */
export function isRefusal({ type, turn, code }) {
  return type === "error" && turn == null && REFUSALS.has(code);
}

/** Whether this is the last message of its turn. */
export function endsTurn(message) {
  return ENDINGS.has(message.type) || (message.type === "error" && message.turn != null);
}

/** A turn that was begun here. `number` is known once the server has told of it. */
export class Turn {
  number = null;
  /** The server takes no more of its utterance. */
  stopped = false;
  /** The server would not begin it. */
  refused = false;

  constructor(id) {
    this.id = id;
  }
}

export class Outbox {
  /** The newest turn that the server has told of. */
  turn = 0;
  #settings;
  #configured = false;
  #items = [];
  #sent = 0;
  #unnumbered = [];
  #begun = 0;
  #place = 0;

  /** `settings`: what `configure` asks for, ahead of the first turn. */
  constructor(settings) {
    this.#settings = settings;
  }

  // ---- what the user says

  /** A new utterance; its turn. */
  begin() {
    if (!this.#configured) {
      this.#configured = true;
      this.#items.push({ message: { type: "configure", ...this.#settings } });
    }
    const turn = new Turn(`page-${++this.#begun}`);
    this.#unnumbered.push(turn);
    return turn;
  }

  /** A slice of the open utterance: an Int16Array at 16 kHz. */
  audio(turn, samples) {
    if (turn.refused) return;
    const message = {
      type: "audio_chunk",
      audio_data: toBase64(samples),
      chunk_id: turn.id,
      offset_samples: this.#place,
      end_of_utterance: false,
    };
    this.#place += samples.length;
    this.#items.push({ message, turn, upto: this.#place });
  }

  /** The utterance is whole. */
  end(turn) {
    if (turn.refused) return;
    this.#items.push({ message: { type: "end_of_utterance" }, turn, ends: true });
  }

  /** A typed turn. */
  text(text) {
    const turn = this.begin();
    this.#items.push({ message: { type: "text", text }, turn });
    return turn;
  }

  /** Barge-in by hand. `playedMs`: how much of the answer was heard. */
  interrupt(turn, playedMs) {
    this.#items.push({
      message: { type: "user_interrupt", played_ms: playedMs },
      turn,
      interrupts: true,
    });
  }

  // ---- what goes out

  /** The next message to send on this socket, or `undefined`. */
  next() {
    return this.#items[this.#sent++]?.message ?? void this.#sent--;
  }

  /** There is a new socket, and the server stands here: what it has not is sent again. */
  rewind(turn, inputSamples) {
    this.#count(turn);
    this.#prove(turn, inputSamples);
    this.#sent = 0;
    // An interruption of an answer that was followed by another must not hit that one.
    this.#items = this.#items.filter((item) => !item.interrupts || item.turn.number === this.turn);
  }

  /** There is a new conversation in place of one that never had a turn: all is said again. */
  restart() {
    this.#sent = 0;
    this.#items = this.#items.filter((item) => item.turn);
    if (this.#configured) this.#items.unshift({ message: { type: "configure", ...this.#settings } });
  }

  // ---- what the server says

  /** Learn from a message. The turn that the server refuses by it, if it does. */
  hear(message) {
    const { type, turn } = message;
    if (type === "configured") this.#forgetThrough(this.#items.findIndex((item) => !item.turn));
    if (isRefusal(message)) return this.#refused(message);
    if (type === "error" && turn == null) this.#answered(message);
    if (typeof turn !== "number") return null;
    this.#count(turn);
    if (LATER.has(type) || endsTurn(message)) this.#stop(turn);
    if (endsTurn(message)) {
      this.#forgetThrough(this.#items.findIndex((item) => item.interrupts && item.turn.number === turn));
    }
    this.#prove(turn, type === "audio_ack" ? message.input_samples : 0);
    return null;
  }

  /** The server has begun all turns up to this one: the oldest of those that had no number. */
  #count(turn) {
    while (this.turn < turn) {
      this.turn += 1;
      const oldest = this.#unnumbered.shift();
      if (oldest) oldest.number = this.turn;
    }
  }

  #stop(number) {
    for (const { turn } of this.#items) {
      if (turn?.number === number) turn.stopped = true;
    }
  }

  /** Forget everything up to the last thing that the server is known to have. */
  #prove(number, inputSamples) {
    const isThere = ({ message, turn, upto }) =>
      message.type === "text" || turn.stopped || (upto !== undefined && upto <= inputSamples);
    const proven = (item) => {
      if (item.interrupts || item.turn?.number == null) return false;
      return item.turn.number < number || (item.turn.number === number && isThere(item));
    };
    this.#forgetThrough(this.#items.findLastIndex(proven));
  }

  /** An `error` that ends no turn answers the oldest thing that is not proven, if it fits that. */
  #answered({ code }) {
    const first = this.#sent > 0 ? this.#items[0] : undefined;
    if (code === "wrong_state" && (first?.ends || first?.interrupts)) this.#forgetThrough(0);
  }

  /** The turn that an `error` refuses; `null` if that is known already. */
  #refused({ chunk_id: id }) {
    const turn = this.#unnumbered.find((each) => (id ? each.id === id : this.#isSentText(each)));
    if (turn) this.#refuse(turn);
    return turn ?? null;
  }

  #isSentText(turn) {
    return this.#items.some(
      (item, place) => place < this.#sent && item.turn === turn && item.message.type === "text",
    );
  }

  #refuse(turn) {
    turn.refused = true;
    this.#unnumbered = this.#unnumbered.filter((each) => each !== turn);
    this.#sent -= this.#items.slice(0, this.#sent).filter((item) => item.turn === turn).length;
    this.#items = this.#items.filter((item) => item.turn !== turn);
    // A later slice, on its way already, may have been let in: then an utterance is open that has no end.
    this.#items.push({ message: { type: "end_of_utterance" }, turn, ends: true });
  }

  #forgetThrough(place) {
    this.#items.splice(0, place + 1);
    this.#sent = Math.max(0, this.#sent - (place + 1));
  }
}
