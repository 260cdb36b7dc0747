// An answer on the page: its tokens with their sources, and what is shown about one of them.

export const SOURCES = {
  accepted: "accepted draft",
  recovered: "recovered: the draft was rejected",
  bonus: "bonus after an accepted draft",
  plain: "plain: no draft was tested",
};

/** Return an element with a class, attributes or a text. */
export function element(tag, fields = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(fields)) {
    if (name in made && name !== "list") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** Return a probability from its logarithm, as a percentage. */
function percent(logprob) {
  const value = 100 * Math.exp(logprob);
  return `${value >= 99.95 ? "100" : value >= 0.1 ? value.toFixed(1) : "below 0.1"} %`;
}

/** A streaming answer; the arrow keys move over its tokens. */
export class Answer {
  /**
   * @param {string} name what a screen reader calls it
   * @param {HTMLElement} detail shows a token's source and probability
   */
  constructor(name, detail) {
    this.tokens = [];
    this.arrivals = [];
    this.text = "";
    this.spans = [];
    this.detail = detail;
    this.current = -1;
    this.decoder = new TextDecoder();
    this.started = performance.now();
    this.element = element("div", { className: "answer", tabIndex: 0, role: "group" });
    this.element.setAttribute("aria-label", name);
    this.element.addEventListener("mouseover", (event) => this.#point(event.target));
    this.element.addEventListener("click", (event) => this.#point(event.target));
    this.element.addEventListener("keydown", (event) => this.#move(event));
    this.element.addEventListener("blur", () => this.#mark(-1));
  }

  /** Add what one event of the stream brings. */
  push({ tokens, text }) {
    this.text += text;
    for (const token of tokens) {
      this.tokens.push(token);
      this.arrivals.push(performance.now() - this.started);
      this.#append(token);
    }
  }

  /** End the answer; tokens beyond the text, such as an end token, become marks. */
  finish() {
    const whole = this.spans.map((span) => span.textContent).join("");
    // A decoder of a whole text may drop the space before its first word.
    const start = whole.startsWith(this.text) ? 0 : whole.indexOf(this.text.trimStart());
    if (start < 0 || whole.slice(0, start).trim()) return;
    let rest = start + (start ? this.text.trimStart() : this.text).length;
    for (const span of this.spans) {
      const length = span.textContent.length;
      if (length > rest) {
        const kept = span.textContent.slice(0, rest);
        const mark = span.textContent.slice(rest).trim() || "end";
        span.textContent = kept;
        span.append(element("span", { className: "unseen" }, `⟨${mark}⟩`));
        span.classList.toggle("unseen", !kept);
      }
      rest = Math.max(0, rest - length);
    }
  }

  /** Return how many tokens came from each source. */
  counts() {
    const found = Object.fromEntries(Object.keys(SOURCES).map((source) => [source, 0]));
    for (const token of this.tokens) found[token.source] += 1;
    return found;
  }

  /** Return the seconds to the first token, to the last one, and the tokens a second between. */
  speed() {
    const last = this.arrivals.at(-1) ?? 0;
    const first = this.arrivals[0] ?? 0;
    const between = (last - first) / 1000;
    const later = this.arrivals.filter((at) => at > first).length;
    return { first: first / 1000, total: last / 1000, rate: between > 0 ? later / between : 0 };
  }

  /** Show the tokens again as they arrived; returns when the last one is there. */
  async replay(isCurrent) {
    this.element.replaceChildren();
    const started = performance.now();
    for (const [index, span] of this.spans.entries()) {
      while (performance.now() - started < this.arrivals[index]) {
        await new Promise(requestAnimationFrame);
        if (!isCurrent()) break;
      }
      this.element.append(span);
    }
  }

  #append(token) {
    const text = this.decoder.decode(new Uint8Array(token.bytes), { stream: true });
    const span = element("span", { className: `token ${token.source}` }, text);
    span.dataset.index = this.spans.length;
    span.dataset.source = token.source;
    this.spans.push(span);
    this.element.append(span);
  }

  #point(target) {
    const span = target.closest?.(".token");
    if (span) this.#mark(Number(span.dataset.index));
  }

  #move(event) {
    const steps = { ArrowRight: 1, ArrowLeft: -1, Home: -this.spans.length, End: this.spans.length };
    if (!(event.key in steps) || !this.spans.length) return;
    event.preventDefault();
    const next = this.current + steps[event.key];
    this.#mark(Math.min(Math.max(next, 0), this.spans.length - 1));
    this.spans[this.current].scrollIntoView({ block: "nearest" });
  }

  #mark(index) {
    this.spans[this.current]?.classList.remove("current");
    this.current = index;
    if (index < 0) return;
    this.spans[index].classList.add("current");
    this.#describe(index);
  }

  #describe(index) {
    const { logprob, source, top, bytes } = this.tokens[index];
    const text = new TextDecoder().decode(new Uint8Array(bytes));
    const others = top.filter((one) => one.text !== text);
    const list = others.flatMap((one) => [
      " ",
      element("code", {}, JSON.stringify(one.text).slice(1, -1) || "∅"),
      ` ${percent(one.logprob)}`,
    ]);
    this.detail.replaceChildren(
      `Token ${index + 1} of ${this.tokens.length} `,
      element("code", {}, JSON.stringify(text).slice(1, -1) || "∅"),
      ": ",
      element("b", {}, SOURCES[source]),
      `, probability ${percent(logprob)}.`,
      ...(list.length ? [" Instead of it:", ...list, "."] : []),
    );
  }
}
