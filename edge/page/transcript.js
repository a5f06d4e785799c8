// The conversation as it is read: what the user said, the answer's words as they come, those already spoken
// set apart. Owns the list in the page; knows no socket and no sound.

/** What a letter of speech takes, until it is known how long its chunk really is. */
const MS_PER_CHARACTER = 60;

const LATENCIES = [
  ["first_token_latency_ms", "first token"],
  ["first_word_latency_ms", "first word"],
  ["first_audio_latency_ms", "first audio"],
  ["inter_token_latency_ms", "token to token"],
];

export class Transcript {
  #list;
  #template;

  /** An `<ol>`, and the `<template>` of an exchange. */
  constructor(list, template) {
    this.#list = list;
    this.#template = template;
  }

  /** What the user says begins a new exchange. `said` is `null` for words that were spoken. */
  add(said) {
    const item = this.#template.content.firstElementChild.cloneNode(true);
    const exchange = new Exchange(item, said);
    this.#list.append(item);
    // The list's end is where its box begins to scroll from (style.css): it stays in view as words come.
    this.#list.parentElement.scrollTop = 0;
    return exchange;
  }
}

/** One turn: what was said, and the answer as far as it has come. */
class Exchange {
  #item;
  #reply = "";
  #chunks = [];
  #told = 0;
  #isWhole = false;

  constructor(item, said) {
    this.#item = item;
    if (said !== null) this.#part("said").textContent = said;
    else this.#item.classList.add("by-voice");
  }

  /** How long the user has been speaking. */
  speaks(ms) {
    this.#part("said").textContent = `spoken, ${(ms / 1000).toFixed(1)} s`;
  }

  /** A piece of the reply. */
  token(text) {
    this.#reply += text;
    this.#part("answer").hidden = false;
    this.#show();
  }

  /** A piece of the reply that will be spoken. */
  chunk(sequence, text) {
    this.#chunk(sequence).characters = text.length;
  }

  /** A frame of the speech of a chunk. */
  frame(sequence, ms) {
    this.#chunk(sequence).ms += ms;
  }

  /** So much of the speech was heard: the words up to there are set apart. */
  heard(playedMs) {
    let characters = 0;
    let left = playedMs;
    for (const [place, { ms, characters: length }] of this.#chunks.entries()) {
      const isWhole = this.#isWhole || place < this.#chunks.length - 1;
      const expected = isWhole ? ms : Math.max(ms, length * MS_PER_CHARACTER);
      characters += left >= expected ? length : Math.floor((length * left) / expected);
      if (left < expected) break;
      left -= ms;
    }
    this.#tell(this.#toWordEnd(characters));
  }

  /** All of the answer was heard. */
  heardOut() {
    this.#tell(this.#reply.length);
    this.#end();
  }

  /** The answer is whole; the line of its latencies. */
  complete(message) {
    const known = LATENCIES.filter(([field]) => message[field] != null);
    this.#note(known.map(([field, name]) => `${name} ${Math.round(message[field])} ms`).join(" · "));
    this.#isWhole = true;
  }

  /** The answer was cut off after these words; `null` if the server has not been asked which. */
  interrupted(heardText) {
    if (heardText !== null) this.#told = Math.min(heardText.length, this.#reply.length);
    this.#item.classList.add("interrupted");
    this.#show();
    this.#note(this.#reply ? "interrupted" : "not answered");
    this.#end();
  }

  /** There is no answer, or no more of it. */
  failed(why) {
    this.#item.classList.add("failed");
    this.#note(why);
    this.#end();
  }

  #chunk(sequence) {
    while (this.#chunks.length <= sequence) this.#chunks.push({ characters: 0, ms: 0 });
    return this.#chunks[sequence];
  }

  #toWordEnd(characters) {
    if (characters === 0) return 0;
    const rest = this.#reply.slice(characters).search(/\s/);
    return rest < 0 ? this.#reply.length : characters + rest;
  }

  #tell(characters) {
    if (characters <= this.#told) return;
    this.#told = characters;
    this.#show();
  }

  #show() {
    // A space between the two goes with what was told: it must not be struck out.
    const space = this.#reply.slice(this.#told).match(/^\s*/)[0].length;
    this.#part("told").textContent = this.#reply.slice(0, this.#told + space);
    this.#part("coming").textContent = this.#reply.slice(this.#told + space);
  }

  #note(text) {
    this.#part("note").textContent = text;
    this.#part("note").hidden = text === "";
  }

  /** Nothing of it changes any more: now it may be read aloud. */
  #end() {
    this.#item.removeAttribute("aria-busy");
  }

  #part(name) {
    return this.#item.querySelector(`[data-part="${name}"]`);
  }
}
