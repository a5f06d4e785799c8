// One conversation with a Parley edge over WebSockets that may be lost: it resumes by itself, says again what
// the server has not, and hands on every message that comes from a log exactly once. Knows no page.

import { Outbox, endsTurn, isRefusal, refusesStream } from "./outbox.js";

/** What every conversation of this page asks for. */
const SETTINGS = {
  input_format: "pcm16",
  input_sample_rate: 16000,
  output_format: "pcm16",
  pacing: "realtime",
};

const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 4000;
const GREET_WITHIN_MS = 10_000;
const TICK_MS = 2500;
const QUIET_MS = 5000;
const PONG_WITHIN_MS = 10_000;

const NORMAL = 1000;
const REPLACED = 4001;

export class Conversation {
  /** Is called with each message of the server, and the turn that it belongs to, if that is known here. */
  onmessage = () => {};
  /** Is called with a turn that the server has found in the stream, before the first message of it. */
  onfound = () => {};
  /**
   * Is called when the connection changes, with "connecting", "open", "lost", "locked" (a key is needed),
   * "replaced" (the conversation goes on elsewhere) or "ended"; and, where there is one, a reason for people.
   */
  onlink = () => {};
  /** Is called when the server no longer knows the conversation and a new one has begun in its place. */
  onforgotten = () => {};
  /** Is called when the server would not begin a turn: with it, `null` in a stream, and with the `error`. */
  onrefused = () => {};

  serverConfig = null;
  resumes = 0;
  #url;
  #door;
  #key = "";
  #socket = null;
  #ready = false;
  #greeting = null;
  #id = "";
  #token = "";
  #held = {};
  #outbox = new Outbox(SETTINGS);
  #turns = new Map();
  #begun = [];
  #pauseMs = FIRST_PAUSE_MS;
  #retry = 0;
  #deadline = 0;
  #ticker = 0;
  #heardAt = 0;
  #pingedAt = 0;

  /** `url` is the edge's WebSocket; `door`, over HTTP, says why a browser was not let in there. */
  constructor(url, door) {
    this.#url = url;
    this.#door = door;
  }

  /** Whether messages go out and come in. */
  get open() {
    return this.#ready;
  }

  /** How much input there was, in milliseconds. */
  get inputMs() {
    return this.#outbox.inputMs;
  }

  /** Whether there is a conversation to go on with on the next socket. */
  get #goesOn() {
    return this.#id !== "" && this.#outbox.begun;
  }

  /** A socket that resumes is let in where a new conversation might not be. */
  get #query() {
    return this.#goesOn ? "?resume=1" : "";
  }

  /** Connect, or connect again now rather than later. An empty `key` shows none. */
  connect(key = this.#key) {
    this.#key = key;
    if (this.#socket) return;
    clearTimeout(this.#retry);
    const keys = key ? [`parley-key.${key}`] : [];
    try {
      this.#socket = new WebSocket(this.#url + this.#query, ["parley", ...keys]);
    } catch {
      this.onlink("locked", "A browser cannot send this key: it has a character that is not allowed.");
      return;
    }
    const socket = this.#socket;
    this.#greeting = null;
    socket.onmessage = ({ data }) => socket === this.#socket && this.#take(JSON.parse(data));
    socket.onclose = ({ code }) => socket === this.#socket && this.#closed(code);
    this.#deadline = setTimeout(() => this.#drop(), GREET_WITHIN_MS);
    this.#ticker = setInterval(() => this.#tick(), TICK_MS);
    this.onlink("connecting");
  }

  /** End the conversation. */
  close() {
    const socket = this.#socket;
    this.#forgetSocket();
    clearTimeout(this.#retry);
    socket?.close(NORMAL);
    this.#begin({ conversation_id: "", resume_token: "" });
  }

  // ---- what the user says

  /** Settings that change, from the next turn on. */
  configure(changes) {
    this.#outbox.configure(changes);
    this.#flush();
  }

  /** A slice of a stream in which the server finds turns: an Int16Array at 16 kHz. */
  stream(samples) {
    this.#outbox.stream(samples);
    this.#flush();
  }

  /** Nothing more of the stream comes for now. */
  endStream() {
    this.#outbox.endStream();
    this.#flush();
  }

  /** A new utterance; its turn. */
  begin() {
    return this.#add(this.#outbox.begin());
  }

  /** A slice of the utterance: an Int16Array at 16 kHz. */
  audio(turn, samples) {
    this.#outbox.audio(turn, samples);
    this.#flush();
  }

  /** The utterance is whole. */
  end(turn) {
    this.#outbox.end(turn);
    this.#flush();
  }

  /** A typed turn. */
  text(text) {
    const turn = this.#add(this.#outbox.text(text));
    this.#flush();
    return turn;
  }

  /** Stop the answer of a turn, of which so much was heard. */
  interrupt(turn, playedMs) {
    this.#outbox.interrupt(turn, playedMs);
    this.#flush();
  }

  /** What the listener has heard of a turn so far. Lost with a socket: the next report says more. */
  report(turn, playedMs) {
    if (this.#ready) this.#send({ type: "playback", turn: turn.number, played_ms: playedMs });
  }

  // ---- what the server says

  #take(message) {
    this.#heardAt = Date.now();
    this.#pingedAt = 0;
    if (this.#ready) this.#hear(message);
    else if (message.type === "connection") this.#greeted(message);
    else if (message.type === "resumed") this.#resumed(message);
    else if (message.type === "error") this.#notResumed(message);
  }

  #greeted(greeting) {
    this.#greeting = greeting;
    this.serverConfig = greeting.server_config;
    if (!this.#goesOn) {
      this.#begin(greeting);
      this.#opened();
      return;
    }
    const places = Object.entries(this.#held).map(([log, place]) => [log, place.join("-")]);
    const after = Object.fromEntries(places);
    this.#send({ type: "resume", conversation_id: this.#id, resume_token: this.#token, after });
  }

  #resumed({ resume_token: token, turn, input_samples: inputSamples, found_turns: found }) {
    this.#token = token;
    this.resumes += 1;
    this.#outbox.rewind(turn, inputSamples, found);
    this.#number();
    // The first message proves that the new token came here: the old one is void from then on.
    this.#send({ type: "ping" });
    this.#opened();
  }

  #notResumed({ code }) {
    if (code !== "not_found") {
      this.#drop();
    } else if (this.#outbox.turn === 0) {
      // Nothing of it stands anywhere: a conversation without a turn is begun again under another name.
      this.#adopt(this.#greeting);
      this.#outbox.restart();
      this.#opened();
    } else {
      this.#begin(this.#greeting);
      this.onforgotten();
      this.#opened();
    }
  }

  #opened() {
    clearTimeout(this.#deadline);
    this.#pauseMs = FIRST_PAUSE_MS;
    this.#ready = true;
    this.onlink("open");
    this.#flush();
  }

  #hear(message) {
    if (message.type === "pong" || !this.#isNew(message)) return;
    const refused = this.#outbox.hear(message);
    this.#number();
    if (refused || refusesStream(message)) this.onrefused(refused, message);
    else if (!isRefusal(message)) this.onmessage(message, this.#turns.get(message.turn) ?? null);
    if (endsTurn(message)) this.#turns.delete(message.turn - 1);
    this.#flush();
  }

  /** Whether a message was not here before: of those that have an address, each counts once. */
  #isNew({ address }) {
    if (address == null) return true;
    const [log, place] = address.split(":");
    const [turn, seq] = place.split("-").map(Number);
    const [heldTurn, heldSeq] = this.#held[log] ?? [0, 0];
    if (turn < heldTurn || (turn === heldTurn && seq <= heldSeq)) return false;
    this.#held[log] = [turn, seq];
    return true;
  }

  // ---- turns

  #add(turn) {
    this.#begun.push(turn);
    return turn;
  }

  /** Turns that have got their numbers can be found by them. */
  #number() {
    for (const turn of this.#begun) if (turn.number !== null) this.#turns.set(turn.number, turn);
    this.#begun = this.#begun.filter((turn) => turn.number === null && !turn.refused);
    for (const turn of this.#outbox.takeFound()) {
      this.#turns.set(turn.number, turn);
      this.onfound(turn);
    }
  }

  /** A conversation of which nothing is known yet. */
  #begin(greeting) {
    this.#adopt(greeting);
    this.#held = {};
    // Whatever is still being said belongs to a conversation that is no more.
    for (const turn of [...this.#begun, ...this.#turns.values()]) turn.refused = true;
    this.#outbox = new Outbox(SETTINGS);
    this.#turns.clear();
    this.#begun = [];
  }

  #adopt({ conversation_id: id, resume_token: token }) {
    this.#id = id;
    this.#token = token;
  }

  // ---- one socket after the other

  #send(message) {
    this.#socket.send(JSON.stringify(message));
  }

  #flush() {
    while (this.#ready) {
      const message = this.#outbox.next();
      if (!message) return;
      this.#send(message);
    }
  }

  /** A socket that has died without a word is found out by asking. */
  #tick() {
    const now = Date.now();
    if (this.#pingedAt && now - this.#pingedAt > PONG_WITHIN_MS) this.#drop();
    else if (this.#ready && !this.#pingedAt && now - this.#heardAt > QUIET_MS) {
      this.#pingedAt = now;
      this.#send({ type: "ping" });
    }
  }

  /** Give this socket up and try another. */
  #drop() {
    const socket = this.#socket;
    this.#forgetSocket();
    socket.close();
    this.#tryAgain();
  }

  #closed(code) {
    const wasOpen = this.#ready;
    const greeted = this.#greeting !== null;
    this.#forgetSocket();
    if (code === REPLACED) this.onlink("replaced");
    else if (code === NORMAL) this.onlink("ended");
    else if (wasOpen || greeted) this.#tryAgain();
    else this.#askWhy();
  }

  #forgetSocket() {
    clearTimeout(this.#deadline);
    clearInterval(this.#ticker);
    this.#socket = null;
    this.#ready = false;
    this.#pingedAt = 0;
  }

  /** The handshake was refused, and a browser does not say why: the door does. */
  async #askWhy() {
    const headers = this.#key ? { Authorization: `Bearer ${this.#key}` } : {};
    const answer = await fetch(this.#door + this.#query, { headers, cache: "no-store" }).catch(() => null);
    const error = (await answer?.json().catch(() => null)) ?? {};
    if (this.#socket) return;
    if (error.code === "unauthorized") {
      this.onlink("locked", this.#key ? "The server does not know this key." : "");
    } else if (answer && !error.code && this.serverConfig === null) {
      const why = "The server did not let this page in: it may want an API key, or be full.";
      this.#tryAgain({}, "locked", why);
    } else {
      this.#tryAgain(error.code === "overloaded" ? error : {});
    }
  }

  #tryAgain({ message = "", retry_after_ms: waitMs } = {}, state = "lost", why = message) {
    const pauseMs = Math.max(waitMs ?? 0, this.#pauseMs * (0.5 + Math.random() / 2));
    this.#pauseMs = Math.min(this.#pauseMs * 2, LONGEST_PAUSE_MS);
    this.#retry = setTimeout(() => this.connect(), pauseMs);
    this.onlink(state, why);
  }
}
