// The text, and whose each part of it is. The field holds the text; a mirror over it marks what the model wrote.

/** `[start, end)` of the model's, of which a writer has replaced `[from, to)` by `length` characters of his own. */
function withoutReplaced({ start, end }, from, to, length) {
  const moved = length - (to - from);
  const before = { start, end: Math.min(end, from) };
  const after = { start: Math.max(start, to) + moved, end: end + moved };
  return [before, after].filter((one) => one.start < one.end);
}

class Manuscript {
  /** Parts that the model wrote, in order: `{start, end}`, in UTF-16 units. */
  parts = [];
  /** Where the model writes, or wrote last: `{start, end}`. What a writer types right behind it stays behind it. */
  passage = null;
  text = "";
  #growing = null; // the mirror's text node that ends where the passage does

  constructor(field, mirror) {
    this.field = field;
    this.mirror = mirror;
    field.addEventListener("input", () => this.#heed());
  }

  restore(text, parts, passage) {
    this.text = text;
    this.parts = parts;
    this.passage = passage;
    this.field.value = text;
    this.#mark();
  }

  /** Begin a passage of the model's at the end. */
  begin() {
    this.passage = { start: this.text.length, end: this.text.length };
    this.#mark();
  }

  /** Write on at the passage's end. A caret that stands there goes along; any other stays with its words. */
  write(text) {
    const { passage, field } = this;
    const at = passage.end;
    const along = field.selectionStart === at && field.selectionEnd === at;
    field.setRangeText(text, at, at, "preserve");
    if (along) field.setSelectionRange(at + text.length, at + text.length);
    this.text = this.text.slice(0, at) + text + this.text.slice(at);
    for (const part of this.parts) {
      if (part.start >= at) {
        part.start += text.length;
        part.end += text.length;
      }
    }
    passage.end += text.length;
    const last = this.parts.find((part) => part.end === at);
    if (last) last.end = passage.end;
    else this.#insert({ start: at, end: passage.end });
    if (this.#growing && last) this.#growing.appendData(text);
    else this.#mark();
  }

  /** Put a version of the passage in its place, `{text, parts}` with parts counted from its beginning; the one that was there. */
  replace({ text, parts }) {
    const { start, end } = this.passage;
    const was = {
      text: this.text.slice(start, end),
      parts: this.parts
        .filter((part) => part.end > start && part.start < end)
        .map((part) => ({ start: Math.max(part.start, start) - start, end: Math.min(part.end, end) - start })),
    };
    this.field.setRangeText(text, start, end, "preserve");
    this.text = this.text.slice(0, start) + text + this.text.slice(end);
    this.parts = this.parts.flatMap((part) => withoutReplaced(part, start, end, text.length));
    this.passage.end = start + text.length;
    for (const part of parts) this.#insert({ start: part.start + start, end: part.end + start });
    this.#mark();
    return was;
  }

  /** Who wrote what: `[{model, text}]`. */
  passages() {
    const found = [];
    let at = 0;
    for (const { start, end } of this.parts) {
      if (start > at) found.push({ model: false, text: this.text.slice(at, start) });
      found.push({ model: true, text: this.text.slice(start, end) });
      at = end;
    }
    if (at < this.text.length) found.push({ model: false, text: this.text.slice(at) });
    return found;
  }

  #insert(part) {
    this.parts.push(part);
    this.parts.sort((a, b) => a.start - b.start);
  }

  /** Find what the writer has replaced by what. */
  #heed() {
    const [old, now] = [this.text, this.field.value];
    // Behind the caret nothing has changed, which tells where among letters that repeat something was typed.
    let same = Math.min(old.length, now.length - this.field.selectionEnd);
    let kept = 0;
    while (kept < same && old[old.length - 1 - kept] === now[now.length - 1 - kept]) kept += 1;
    same = Math.min(old.length, now.length) - kept;
    let from = 0;
    while (from < same && old[from] === now[from]) from += 1;
    this.#edited(from, old.length - kept, now.length - kept - from);
    this.text = now;
    this.#mark();
  }

  #edited(from, to, length) {
    const moved = length - (to - from);
    this.parts = this.parts.flatMap((part) => withoutReplaced(part, from, to, length));
    if (!this.passage) return;
    const { start, end } = this.passage;
    if (to <= start && (from < start || end > start)) {
      this.passage = { start: start + moved, end: end + moved };
    } else if (from < start) {
      this.passage = { start: from + length, end: Math.max(to, end) + moved };
    } else if (from < end) {
      this.passage = { start, end: to <= end ? end + moved : from };
    }
  }

  #mark() {
    const nodes = [];
    let at = 0;
    this.#growing = null;
    for (const { start, end } of this.parts) {
      if (start > at) nodes.push(document.createTextNode(this.text.slice(at, start)));
      const span = document.createElement("span");
      const words = document.createTextNode(this.text.slice(start, end));
      span.append(words);
      nodes.push(span);
      if (end === this.passage?.end) this.#growing = words;
      at = end;
    }
    // A last line without a letter has no height of its own.
    nodes.push(document.createTextNode(`${this.text.slice(at)}\u200b`));
    this.mirror.replaceChildren(...nodes);
  }
}
