// The desk: what the service says, and what the writer does.

// What the service says.

connection.busy = () => current?.phase === "asked";

connection.onmessage = (message) => {
  if (!current || message.id !== current.id) return;
  if (message.type === "token") {
    if (!current.unwritten) requestAnimationFrame(draw);
    current.tokens += 1;
    current.first ??= performance.now();
    current.unwritten += withLineEnds(message.text);
  } else if (message.type === "complete") {
    flush();
    figures.ended(current, message);
    finish(ENDS[message.reason]?.(message.usage.completion_tokens) ?? message.reason);
  } else if (message.type === "error") {
    heedError(message);
  }
};

/** Each line end as one kind, as the field itself would, also where its two halves are two tokens. */
function withLineEnds(text) {
  const rest = current.halfLineEnd && text.startsWith("\n") ? text.slice(1) : text;
  if (text) current.halfLineEnd = text.endsWith("\r");
  return rest.replace(/\r\n?/g, "\n");
}

function heedError({ code, message, param, retry_after_seconds: after = 1 }) {
  const waiting = RETRIED.includes(code) && current.tokens === 0;
  if (code === "unauthorized") {
    finish("The service does not take this key any more.", true);
    showDoor();
  } else if (current.stopped) {
    finishStopped();
  } else if (code === "invalid_request" && param === "prompt" && !current.long) {
    current.long = true;
    ask();
  } else if (waiting && current.tries < TRIES && after <= PATIENCE) {
    const seconds = Math.max(after, 0.5 * 2 ** current.tries);
    current.tries += 1;
    current.phase = "waiting";
    current.timer = setTimeout(() => (connection.state === "open" ? ask() : connection.wake()), seconds * 1000);
    say(`${TROUBLES[code]}. It is asked again in a moment.`);
  } else if (waiting) {
    finish(`${TROUBLES[code]}. Try again in ${Math.ceil(after)} ${Math.ceil(after) === 1 ? "second" : "seconds"}.`, true);
  } else {
    finish(TROUBLES[code] ?? message, true);
  }
}

connection.onstate = (state, words, before) => {
  at("connection").dataset.state = state;
  at("connection").textContent = {
    opening: "Connecting…",
    open: connection.models.length === 1 ? connection.models[0].id : "Connected",
    asleep: "Resting until you write",
    lost: "Not connected. Trying again…",
    refused: "A key is wanted",
    foreign: "Reload this page",
  }[state];
  if (state === "open") {
    settings.offer(connection.models);
    at("door").hidden = true;
    at("forget").hidden = connection.key === null;
    if (current) ask();
    else if (before === "lost") say("Connected again.");
    shelf.write("key", connection.key);
  } else if (state === "lost") {
    lose(words, before);
  } else if (state === "refused") {
    if (current) finish("");
    say(words || "This service wants a key.", words !== "");
    showDoor();
  } else if (state === "foreign") {
    const told = "The service has been renewed and this page is old. Reload it; your text stays.";
    if (current) finish(told, true);
    say(told, true);
  }
  refresh();
};

function lose(words, before) {
  if (current?.stopped) {
    finishStopped();
  } else if (current?.tokens) {
    finish("The connection broke off. What has come is kept; Continue goes on from there.", true);
  } else if (current) {
    current.phase = "waiting";
    say("The connection is lost. The model is asked again as soon as the service answers.", true);
  } else if (words || before !== "lost") {
    say(words ? `The service says: ${words}` : "The service does not answer. Your text stays, and this page keeps trying.", true);
  }
}

function showDoor() {
  connection.key = null;
  shelf.write("key", null);
  at("forget").hidden = true;
  at("door").hidden = false;
  // Who is writing goes on writing: no letter of a story ends up in the key's field.
  if (document.activeElement !== manuscript.field || manuscript.text === "") at("key").focus();
}

// What the writer does.

function when(id, type, act) {
  at(id).addEventListener(type, act);
}

const unless = (button, act) => () => button.getAttribute("aria-disabled") === "true" || act();
const press = { write: unless(buttons.write, write), stop: unless(buttons.stop, stop) };
when("write", "click", press.write);
when("stop", "click", press.stop);
when("retry", "click", unless(buttons.retry, retry));
when("earlier", "click", () => turn(-1));
when("later", "click", () => turn(1));
when("authors", "toggle", refresh);

when("copy", "click", unless(buttons.copy, async () => {
  try {
    await navigator.clipboard.writeText(manuscript.text);
  } catch { // over plain http, from elsewhere than this machine, there is no clipboard to write to
    manuscript.field.select();
    document.execCommand("copy");
  }
  if (!current) say("Copied.");
}));

when("door", "submit", (event) => {
  event.preventDefault();
  connection.key = at("key").value.trim();
  at("key").value = "";
  say("");
  connection.open();
  if (!at("door").hidden) manuscript.field.focus();
});

when("forget", "click", () => {
  if (current) stop();
  showDoor();
  connection.open();
});

manuscript.field.addEventListener("compositionstart", () => (composing = true));
manuscript.field.addEventListener("compositionend", () => {
  composing = false;
  flush();
});

let saving = null;
manuscript.field.addEventListener("input", () => {
  refresh();
  clearTimeout(saving);
  saving = setTimeout(keep, 500);
});
addEventListener("pagehide", keep);

document.addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    press.write();
  } else if (event.key === "Escape") {
    press.stop();
  }
});

const kept = shelf.read("manuscript");
if (kept) takeUp(kept);
connection.key = shelf.read("key");
refresh();
connection.open();
