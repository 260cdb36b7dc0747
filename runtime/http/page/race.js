// A race: one request in two modes, one after the other, so that neither slows the other.

import { answer } from "./api.js";
import { Answer, element } from "./answer.js";

function seconds(value) {
  return `${value.toFixed(2)} s`;
}

class Lane {
  constructor(letter, mode, detail) {
    this.mode = mode;
    this.answer = new Answer(`Answer of lane ${letter}, mode ${mode}`, detail);
    this.speed = element("span", { className: "speed" });
    this.stats = element("p", { className: "stats" }, "waits for its turn");
    this.bar = element("progress", { max: 1, value: 0 });
    this.bar.setAttribute("aria-label", `Progress of lane ${letter}`);
    this.element = element(
      "section",
      { className: "lane" },
      element("h3", {}, element("span", {}, `${letter}: ${mode}`), this.speed),
      this.bar,
      this.answer.element,
      this.stats,
    );
    this.element.dataset.mode = mode;
  }

  async run(body, signal) {
    this.stats.textContent = "runs";
    this.answer.started = performance.now();
    for await (const event of answer({ ...body, mode: this.mode }, signal)) {
      this.answer.push(event);
      this.bar.value = this.answer.tokens.length / body.max_tokens;
      if (event.usage) this.usage = event.usage;
    }
    this.answer.finish();
    this.bar.value = 1;
    const { first, total, rate } = this.answer.speed();
    const { rounds, accepted_tokens: accepted } = this.usage.speculation;
    this.speed.textContent = `${rate.toFixed(1)} tokens/s`;
    this.stats.textContent =
      `${this.answer.tokens.length} tokens in ${seconds(total)}, the first after ${seconds(first)}; ` +
      `${rounds} forwards of the target, ${accepted} drafts accepted`;
  }
}

/** The lanes of the latest race. */
export class Race {
  constructor(container, detail) {
    this.container = container;
    this.detail = detail;
    this.lanes = [];
    this.number = 0;
  }

  get answers() {
    return this.lanes.map((lane) => lane.answer);
  }

  /** Run both lanes; returns what came of it, as a sentence. */
  async run(body, modes, signal) {
    this.number += 1;
    this.lanes = modes.map((mode, index) => new Lane("AB"[index], mode, this.detail));
    this.container.replaceChildren(...this.lanes.map((lane) => lane.element));
    for (const lane of this.lanes) await lane.run(body, signal);
    return this.#verdict();
  }

  /** Show both answers side by side again, each at its own recorded pace. */
  async replay() {
    this.number += 1;
    const own = this.number;
    await Promise.all(this.answers.map((one) => one.replay(() => this.number === own)));
  }

  clear() {
    this.number += 1;
    this.lanes = [];
    this.container.replaceChildren();
  }

  #verdict() {
    const [a, b] = this.lanes;
    const [left, right] = this.answers.map((one) => one.tokens.map((token) => token.id));
    const same = left.length === right.length && left.every((id, index) => id === right[index]);
    this.container.dataset.same = String(same);
    const [fast, slow] = a.answer.speed().rate >= b.answer.speed().rate ? [a, b] : [b, a];
    fast.element.dataset.won = "";
    const ratio = fast.answer.speed().rate / (slow.answer.speed().rate || 1);
    const tokens = same
      ? `The same ${left.length} tokens in both lanes`
      : "The lanes differ: that is a fault, please report it";
    return `${tokens}. ${fast.mode} was ${ratio.toFixed(2)} times as fast as ${slow.mode}, from the first token on.`;
  }
}
