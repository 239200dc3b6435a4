// The writing itself: a generation from a button to its end, and what the writer is told of it.

const place = new URL(location.href);
if (!place.pathname.endsWith("/")) place.pathname += "/";
const shelf = new Shelf(`victorian ${place.pathname}`);

const NEAR = 120; // pixels of text below what is seen, at which the page still follows what is written

const at = (id) => document.getElementById(id);
const buttons = { write: at("write"), stop: at("stop"), retry: at("retry"), copy: at("copy") };
const manuscript = new Manuscript(at("manuscript"), at("mirror"));
const settings = new Settings(at("settings"), at("choice"));
const figures = new Figures(at("figures"));
const connection = new Connection(
  new URL("v1/stream", place).href.replace(/^http/, "ws"),
  Number(document.body.dataset.protocol),
);

/** The generation under way: what is asked, what has come of it, `phase` (waiting, asking or asked), whether `stopped`. */
let current = null;
let asked = 0;
/** Versions of the last passage, `{text, parts}`; null for the one in its place. */
let versions = [];
/** Whether a keyboard is putting letters together, which a change of the field would end. */
let composing = false;
/** Until when nothing is drawn, in milliseconds of this page's clock. */
let resting = 0;

function keep() {
  flush();
  const { text, parts, passage } = manuscript;
  const kept = { text, parts, passage, versions, before: current?.before };
  shelf.write("manuscript", text || versions.some((version) => version?.text) ? kept : null);
}

function takeUp({ text, parts, passage = null, versions: others = [], before }) {
  manuscript.restore(text, parts, passage);
  versions = others;
  if (before !== undefined && passage.start === passage.end) giveBack(before);
}

/** Where nothing came of a retry: what was there before it. */
function giveBack(before) {
  versions.pop();
  manuscript.replace(versions[before]);
  versions[before] = null;
}

// What the writer is told. The status is read aloud, so it changes when something happens, and not with every token.

function say(words, trouble = false) {
  at("status").textContent = words;
  at("status").toggleAttribute("data-trouble", trouble);
}

function refresh() {
  const { text, parts, passage } = manuscript;
  const able = {
    write: !current && !["refused", "foreign"].includes(connection.state),
    stop: current !== null,
    retry: !current && passage !== null,
    copy: text !== "",
  };
  for (const [name, button] of Object.entries(buttons)) button.setAttribute("aria-disabled", String(!able[name]));
  buttons.write.textContent = parts.length ? "Continue" : "Write";
  at("takes").hidden = versions.length < 2 || current !== null || passage === null;
  at("take").textContent = `${versions.indexOf(null) + 1} of ${versions.length}`;
  if (at("authors").open) showPassages();
}

function showPassages() {
  const items = manuscript.passages().map(({ model, text }) => {
    const item = document.createElement("li");
    item.dir = "auto";
    const who = document.createElement("b");
    who.textContent = model ? "The model" : "You";
    item.append(who, text.trim());
    return item;
  });
  at("passages").replaceChildren(...items);
}

// A generation, from a button to its end.

function begin(seed) {
  const parameters = settings.parameters();
  if (parameters === null) {
    say(settings.problem, true);
    return false;
  }
  // Drawn here, because a seed of the service's may have more digits than a browser keeps.
  parameters.seed = seed ?? parameters.seed ?? crypto.getRandomValues(new Uint32Array(1))[0];
  current = {
    parameters, phase: "waiting", began: performance.now(), first: null, tokens: 0, unwritten: "", tries: 0, read: 0,
  };
  figures.clear();
  return true;
}

function write() {
  if (current || !begin()) return;
  manuscript.begin();
  versions = [null];
  current.prompt = manuscript.text;
  go();
}

function retry() {
  if (current || !begin(crypto.getRandomValues(new Uint32Array(1))[0])) return;
  current.before = versions.indexOf(null);
  versions[current.before] = manuscript.replace({ text: "", parts: [] });
  versions.push(null);
  current.prompt = manuscript.text.slice(0, manuscript.passage.start);
  go();
}

function go() {
  say("Writing…");
  refresh();
  if (manuscript.passage.end === manuscript.text.length) follow();
  connection.wake();
  if (connection.state === "open") ask();
}

async function ask() {
  const mine = current;
  const id = String(++asked);
  Object.assign(mine, { id, phase: "asking" });
  clearTimeout(mine.timer);
  const model = connection.models.find((one) => one.id === settings.model) ?? connection.models[0];
  let prompt = mine.prompt.toWellFormed?.() ?? mine.prompt;
  try {
    // A token has four letters and more; a text that is shorter than two a token is sent as it is.
    if (mine.long || prompt.length > 2 * model.context) {
      prompt = await lastTokens(prompt, model, mine.parameters.max_tokens ?? model.context, place, connection.key);
      mine.read = prompt.cut ? prompt.tokens.length : 0;
      prompt = prompt.tokens;
    }
  } catch (error) {
    if (current === mine && mine.id === id) heedError(error);
    return;
  }
  if (current !== mine || mine.id !== id) return;
  if (connection.state !== "open") { // it was let go, since nothing was asked on it while the text was cut
    connection.wake();
    return;
  }
  mine.phase = "asked";
  connection.send({ type: "generate", id, model: model.id, prompt, parameters: mine.parameters });
}

function stop() {
  if (!current) return;
  current.stopped = true; // whatever answers now, or does not, it is not asked for again
  if (current.phase === "asked" && connection.state === "open") connection.send({ type: "cancel", id: current.id });
  else finishStopped();
}

function finishStopped() {
  finish(current.tokens ? ENDS.cancelled(current.tokens) : "Stopped before it began.");
}

/** Write down what has come, once a frame, or less often where that takes a quarter of the time: keys go first. */
function draw() {
  const began = performance.now();
  if (began < resting) {
    requestAnimationFrame(draw);
    return;
  }
  flush();
  resting = performance.now() + 3 * (performance.now() - began);
}

function flush() {
  if (!current?.unwritten || composing) return;
  const following = hidden() < NEAR;
  manuscript.write(current.unwritten);
  current.unwritten = "";
  figures.running(current);
  if (following) follow();
}

/** Pixels of the sheet's end that are below what is seen. */
function hidden() {
  return at("sheet").getBoundingClientRect().bottom - at("desk").getBoundingClientRect().top;
}

function follow() {
  if (hidden() > 0) scrollBy({ top: hidden(), behavior: "instant" });
}

function finish(words, trouble = false) {
  composing = false;
  flush();
  clearTimeout(current.timer);
  const { start, end } = manuscript.passage;
  if (current.before !== undefined && start === end) giveBack(current.before);
  current = null;
  say(words, trouble);
  refresh();
  keep();
}

function turn(step) {
  const [here, there] = [versions.indexOf(null), versions.indexOf(null) + step];
  if (current || !versions[there]) return;
  versions[here] = manuscript.replace(versions[there]);
  versions[there] = null;
  refresh();
  keep();
}
