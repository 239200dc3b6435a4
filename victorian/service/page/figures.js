// How fast it goes: what is said below the manuscript, and only seen.

const EVERY = 250; // milliseconds between two figures: faster ones cannot be read

class Figures {
  #shown = 0;

  constructor(place) {
    this.place = place;
  }

  clear() {
    this.place.textContent = "";
  }

  /** Of a generation under way; `first` and `began` in milliseconds of this page's clock. */
  running({ began, first, tokens }) {
    const now = performance.now();
    if (now - this.#shown < EVERY) return;
    this.#shown = now;
    const speed = tokens > 1 ? (tokens - 1) / ((now - first) / 1000) : null;
    this.#show([counted(tokens), speed && `${figure(speed)} tokens/s`, waited(began, first)]);
  }

  /** Of one that has ended, by the service's own account. */
  ended({ began, first, read }, { timings, seed }) {
    this.#show([
      timings.tokens_per_second && `${figure(timings.tokens_per_second)} tokens/s`,
      first !== null && waited(began, first),
      `seed ${seed}`,
      read && `the model read your last ${read} tokens`,
    ]);
  }

  #show(figures) {
    this.place.textContent = figures.filter(Boolean).join(" · ");
  }
}

function waited(began, first) {
  return `first in ${((first - began) / 1000).toFixed(2)} s`;
}

function figure(number) {
  return number < 10 ? number.toFixed(1) : String(Math.round(number));
}
