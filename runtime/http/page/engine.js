// The panel of the engine: what each replica does, from the `status` events.

import { element } from "./answer.js";

const RATE_S = 3;

function share(part, whole) {
  return whole ? `${((100 * part) / whole).toFixed(0)} %` : "–";
}

function fact(name, value) {
  const shown = element("dd", {}, String(value));
  shown.dataset.fact = name;
  return element("div", {}, element("dt", {}, name), shown);
}

/** Shows the latest status, with rates over the last seconds. */
export class EnginePanel {
  constructor(container) {
    this.container = container;
    this.history = new Map();
  }

  show(status) {
    this.container.replaceChildren(...status.replicas.map((replica) => this.#card(replica, status)));
  }

  #card(replica, status) {
    const now = performance.now() / 1000;
    const past = (this.history.get(replica.replica) || []).filter((one) => now - one.at <= RATE_S);
    const before = past[0];
    this.history.set(replica.replica, [...past, { at: now, tokens: replica.tokens }]);
    const rate = before ? (replica.tokens - before.tokens) / (now - before.at) : 0;
    const title = `Replica ${replica.replica}: ${replica.state}`;
    const usage = element("meter", { min: 0, max: Math.max(replica.pages, 1), value: replica.pages_used });
    usage.setAttribute("aria-label", "Pages of the cache in use");
    return element(
      "article",
      { className: "replica" },
      element("h3", {}, title),
      element(
        "dl",
        { className: "facts" },
        fact("tokens a second", Math.max(rate, 0).toFixed(1)),
        fact("running", replica.running),
        fact("waiting", replica.waiting),
        fact("drafter", replica.drafters ? replica.drafter : "none"),
        fact("drafters", replica.drafters),
        fact("acceptance", share(replica.accepted, replica.drafted)),
        fact("tokens a round", replica.rounds ? (replica.tokens / replica.rounds).toFixed(2) : "–"),
        fact("overlapped drafting", share(replica.hidden_s, replica.draft_s)),
        fact("prefix cache hits", share(replica.prefix_hit_tokens, replica.prefix_query_tokens)),
        fact("restarts", replica.restarts),
        fact("finished", status.finished),
        fact("cache", `${replica.pages_used} of ${replica.pages}`),
      ),
      usage,
    );
  }
}
