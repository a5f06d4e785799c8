// Any sample rate to 16 kHz or another, as a stream: a windowed sinc, evaluated where each new sample lies.
//
// For browsers that do not convert a microphone's rate themselves. Pure.

const ZERO_CROSSINGS = 16;
/** Steps of the kernel's table between two zero crossings; between the steps it is interpolated. */
const STEPS = 512;

/** A Blackman-windowed sinc, one side. */
const KERNEL = Float32Array.from({ length: ZERO_CROSSINGS * STEPS + 2 }, (_, step) => {
  const x = step / STEPS;
  if (x >= ZERO_CROSSINGS) return 0;
  const phase = (Math.PI * x) / ZERO_CROSSINGS;
  const window = 0.42 + 0.5 * Math.cos(phase) + 0.08 * Math.cos(2 * phase);
  return x === 0 ? 1 : (window * Math.sin(Math.PI * x)) / (Math.PI * x);
});

export class Resampler {
  #step;
  #cutoff;
  #reach;
  #history;
  #position;

  /** Rates in Hz. Going down, what lies above half the new rate is filtered out. */
  constructor(from, to) {
    this.#step = from / to;
    this.#cutoff = Math.min(1, to / from);
    this.#reach = Math.ceil(ZERO_CROSSINGS / this.#cutoff);
    // As if silence had come before the first sample.
    this.#history = new Float32Array(this.#reach);
    this.#position = this.#reach;
  }

  /** The new samples that these make possible (Float32Array to Float32Array). */
  feed(samples) {
    const input = new Float32Array(this.#history.length + samples.length);
    input.set(this.#history);
    input.set(samples, this.#history.length);
    const output = [];
    while (this.#position + this.#reach < input.length) {
      output.push(this.#at(input, this.#position));
      this.#position += this.#step;
    }
    const passed = Math.max(0, Math.floor(this.#position) - this.#reach);
    this.#history = input.slice(passed);
    this.#position -= passed;
    return Float32Array.from(output);
  }

  /** The last samples, as if silence came now. */
  flush() {
    return this.feed(new Float32Array(this.#reach + 1));
  }

  #at(input, position) {
    const first = Math.max(0, Math.ceil(position - this.#reach));
    const last = Math.min(input.length - 1, Math.floor(position + this.#reach));
    let sum = 0;
    for (let place = first; place <= last; place += 1) {
      const x = Math.abs(place - position) * this.#cutoff * STEPS;
      const step = Math.min(Math.floor(x), KERNEL.length - 2);
      sum += input[place] * (KERNEL[step] + (x - step) * (KERNEL[step + 1] - KERNEL[step]));
    }
    return sum * this.#cutoff;
  }
}
