// The microphone's samples, on the audio thread: at 16 kHz, in PCM16, in small slices while recording.
//
// In:  "start", "stop".  Out: {samples: Int16Array, level} for each slice, {done: true} after the last one.

import { Resampler } from "./resampler.js";

const RATE = 16000;
/** 40 ms. */
const SLICE = 640;

class Capture extends AudioWorkletProcessor {
  #recording = false;
  #resampler = null;
  #slice = new Int16Array(SLICE);
  #filled = 0;
  #power = 0;

  constructor() {
    super();
    this.port.onmessage = ({ data }) => (data === "start" ? this.#start() : this.#stop());
  }

  process([[channel]]) {
    if (this.#recording && channel) this.#take(this.#resampler ? this.#resampler.feed(channel) : channel);
    return true;
  }

  #start() {
    this.#recording = true;
    this.#resampler = sampleRate === RATE ? null : new Resampler(sampleRate, RATE);
  }

  #stop() {
    if (this.#recording && this.#resampler) this.#take(this.#resampler.flush());
    this.#recording = false;
    this.#send();
    this.port.postMessage({ done: true });
  }

  #take(samples) {
    for (const sample of samples) {
      const clipped = Math.max(-1, Math.min(1, sample));
      this.#slice[this.#filled++] = Math.round(clipped * 32767);
      this.#power += clipped * clipped;
      if (this.#filled === SLICE) this.#send();
    }
  }

  #send() {
    if (this.#filled === 0) return;
    const samples = this.#slice.slice(0, this.#filled);
    const level = Math.sqrt(this.#power / this.#filled);
    this.#filled = this.#power = 0;
    this.port.postMessage({ samples, level }, [samples.buffer]);
  }
}

registerProcessor("capture", Capture);
