// What the model reads of a text that is longer than it can see.

const MOST_CHARACTERS = Number(document.body.dataset.promptCharacters); // that a service reads at once

/** The end of a text, as much of it as leaves room in the context for what is to come. */
async function lastTokens(text, { id, context }, room, place, key) {
  const most = Math.max(context - room, context >> 1);
  // No token of English has twenty letters on the average; the first word may be half of one.
  const seen = text.slice(-Math.min(20 * most, MOST_CHARACTERS));
  const tail = seen.toWellFormed?.() ?? seen;
  const answer = await fetch(new URL("v1/tokenize", place), {
    method: "POST",
    headers: { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) },
    body: JSON.stringify({ model: id, prompt: tail }),
  }).catch(() => ({ ok: false, status: 0 }));
  if (!answer.ok) throw await refusal(answer);
  const { tokens } = await answer.json();
  return { tokens: tokens.slice(-most), cut: tail.length < text.length || tokens.length > most };
}

/** What HTTP refuses, as the WebSocket would say it. */
async function refusal(answer) {
  const code = { 0: "shutting_down", 401: "unauthorized", 429: "overloaded", 503: "shutting_down" }[answer.status];
  const wait = Number(answer.headers?.get("Retry-After")) || undefined;
  const said = answer.status ? await answer.json().catch(() => null) : null;
  return { code: code ?? "invalid_request", message: said?.error?.message ?? "", retry_after_seconds: wait };
}
