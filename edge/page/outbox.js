// What was said and may have to be said again, because a socket was lost. Pure: knows no socket and no page.
//
//     say ─> [ sent on this socket, not proven | not sent yet ]          proven: forgotten
//
// The server takes messages in order, so whatever proves that it has one proves all before it. A later turn
// proves a turn, `audio_ack` proves samples, `speech_stopped` or any part of the answer proves the end of an
// utterance. Turns are counted on both sides, so that none is ever asked twice; those that the server finds
// in a stream it announces by `speech_started`, or names in `resumed`. Places in the input count samples at
// 16 kHz.

import { toBase64 } from "./base64.js";

const SAMPLES_PER_MS = 16;

const ENDINGS = new Set(["chunked_streaming_complete", "audio_interrupted"]);
/** What comes only after the end of its utterance. */
const LATER = new Set(["speech_stopped", "token_chunk", "semantic_chunk", "sequential_audio"]);
const REFUSALS = new Set(["busy", "overloaded"]);

/** What a slice of a stream goes by, so that a refusal of what was heard in it is not taken for another's. */
const STREAM = "stream";
/** How many slices of a stream are kept for a server that takes none: about a minute. */
const MOST_KEPT = 1500;

/** Whether the server will not begin a turn. */
export function isRefusal({ type, turn, code }) {
  return type === "error" && turn == null && REFUSALS.has(code);
}

/** Whether the server will not begin a turn that it heard in a stream. */
export function refusesStream(message) {
  return isRefusal(message) && message.chunk_id === STREAM;
}

/** Whether this is the last message of its turn. */
export function endsTurn(message) {
  return ENDINGS.has(message.type) || (message.type === "error" && message.turn != null);
}

/** A turn. `number` is known once the server has told of it. */
export class Turn {
  number = null;
  /** The server found it in a stream; it was not begun here. */
  found = false;
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
  /** The newest settings that the server has taken, as a message. */
  #taken = null;
  #configured = false;
  #streams = false;
  #items = [];
  #sent = 0;
  #unnumbered = [];
  #found = [];
  #begun = 0;
  #place = 0;

  /** `settings`: what `configure` asks for, ahead of the first turn. */
  constructor(settings) {
    this.#settings = settings;
  }

  /** Whether anything was ever said here. */
  get begun() {
    return this.#configured;
  }

  /** How much input there was, in milliseconds. */
  get inputMs() {
    return this.#place / SAMPLES_PER_MS;
  }

  // ---- what the user says

  /** Other settings, from the next turn on: those that change. */
  configure(changes) {
    this.#settings = { ...this.#settings, ...changes };
    this.#configured = true;
    this.#items.push({ message: { type: "configure", ...this.#settings }, configures: true });
  }

  /** A new utterance; its turn. */
  begin() {
    if (!this.#configured) this.configure({});
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

  /** A slice of a stream in which the server finds utterances. It is lost where too many wait already. */
  stream(samples) {
    if (this.#items.length >= MOST_KEPT) return;
    const message = {
      type: "audio_chunk",
      audio_data: toBase64(samples),
      chunk_id: STREAM,
      offset_samples: this.#place,
      end_of_utterance: false,
    };
    this.#streams = true;
    this.#place += samples.length;
    this.#items.push({ message, streamed: this.#place });
  }

  /** No more of the stream for now: what is being said in it is whole. */
  endStream() {
    if (!this.#streams) return;
    this.#streams = false;
    // Only input that comes after it proves it.
    this.#items.push({ message: { type: "end_of_utterance" }, ends: true, streamed: this.#place + 1 });
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

  /** There is a new socket, and the server stands here: what it has not is sent again. It `found` some. */
  rewind(turn, inputSamples, found) {
    this.#count(turn, found);
    this.#prove(turn, inputSamples);
    this.#sent = 0;
    // An interruption of an answer that was followed by another must not hit that one.
    this.#items = this.#items.filter((item) => !item.interrupts || item.turn.number === this.turn);
  }

  /** There is a new conversation in place of one that never had a turn: all is said again. */
  restart() {
    this.#sent = 0;
    if (this.#taken) this.#items.unshift({ message: this.#taken, configures: true });
  }

  // ---- what the server says

  /** Learn from a message. The turn that the server refuses by it, if it does. */
  hear(message) {
    const { type, turn } = message;
    if (type === "configured") this.#configures();
    if (isRefusal(message)) return this.#refused(message);
    if (type === "error" && turn == null) return this.#answered(message);
    if (typeof turn !== "number") return null;
    if (type === "speech_started" && message.reason === "server_vad") this.#announced(turn);
    this.#count(turn);
    if (LATER.has(type) || endsTurn(message)) this.#stop(turn);
    if (endsTurn(message)) {
      this.#forgetThrough(this.#items.findIndex((item) => item.interrupts && item.turn.number === turn));
    }
    this.#prove(turn, type === "audio_ack" ? message.input_samples : 0);
    return null;
  }

  /** The turns that the server has found since they were last asked for, oldest first. */
  takeFound() {
    return this.#found.splice(0);
  }

  /** The server has begun all turns up to this one: those it `found`, and the oldest that had no number. */
  #count(turn, found = []) {
    while (this.turn < turn) {
      this.turn += 1;
      if (found.includes(this.turn)) this.#find(this.turn);
      else if (this.#unnumbered.length > 0) this.#unnumbered.shift().number = this.turn;
    }
  }

  /** The server has found this turn in the stream; what it began before was asked for here. */
  #announced(turn) {
    this.#count(turn, [turn]);
  }

  #find(number) {
    const turn = new Turn(STREAM);
    Object.assign(turn, { number, found: true });
    this.#found.push(turn);
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
      if (item.streamed !== undefined) return item.streamed <= inputSamples;
      if (item.interrupts || item.turn?.number == null) return false;
      return item.turn.number < number || (item.turn.number === number && isThere(item));
    };
    this.#forgetThrough(this.#items.findLastIndex(proven));
  }

  /** An `error` that ends no turn answers the oldest thing that it fits; the turn that it refuses, if any. */
  #answered({ code }) {
    if (code !== "wrong_state") return null;
    const isText = ({ message, turn }) => message.type === "text" && turn.number === null;
    const fits = (item, place) => place < this.#sent && (item.ends || item.interrupts || isText(item));
    const place = this.#items.findIndex(fits);
    if (place < 0) return null;
    const { turn, message } = this.#items[place];
    if (message.type === "text") return this.#refuse(turn);
    this.#items.splice(place, 1);
    this.#sent -= 1;
    return null;
  }

  /** The turn that an `error` refuses; `null` if that is known already. */
  #refused({ chunk_id: id }) {
    const turn = this.#unnumbered.find((each) => (id ? each.id === id : this.#isSentText(each)));
    return turn ? this.#refuse(turn) : null;
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
    return turn;
  }

  /** The server has taken the oldest settings; that says nothing of what was said before them. */
  #configures() {
    const place = this.#items.findIndex((item) => item.configures);
    if (place < 0) return;
    this.#taken = this.#items.splice(place, 1)[0].message;
    if (place < this.#sent) this.#sent -= 1;
  }

  #forgetThrough(place) {
    const forgotten = this.#items.splice(0, place + 1);
    this.#taken = forgotten.findLast((item) => item.configures)?.message ?? this.#taken;
    this.#sent = Math.max(0, this.#sent - forgotten.length);
  }
}
