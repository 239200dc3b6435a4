// The page of the manuscript: a plain text area, and behind it the same text with marks, which nothing in the text can
// become markup of: it is only ever set as text. The page that Python knows and the one that is typed on are told apart
// by `epoch`: it changes where the text became another without being typed here, and only then is the typed one replaced.

const SEND_MILLISECONDS = 500;
const STORED = "victorian-desk";

/** Segments [text, hand, probability, index] after a text became another; only what differs is the writer's. */
function edited(segments, before, after) {
  let first = 0;
  const shorter = Math.min(before.length, after.length);
  while (first < shorter && before[first] === after[first]) first++;
  let last = 0;
  while (last < shorter - first && before[before.length - 1 - last] === after[after.length - 1 - last]) last++;
  const cut = (from, to) => {
    const found = [];
    let at = 0;
    for (const [text, hand, probability, index] of segments) {
      const part = text.slice(Math.max(0, from - at), Math.max(0, to - at));
      at += text.length;
      if (part) found.push(part === text ? [text, hand, probability, index] : [part, hand, null, null]);
    }
    return found;
  };
  const typed = after.slice(first, after.length - last);
  return [...cut(0, first), ...(typed ? [[typed, "writer", null, null]] : []), ...cut(before.length - last, before.length)];
}

/** How strongly a token is shaded, in percent: by its surprise in bits, since most words of good prose are unlikely. */
function shade(probability) {
  return Math.round(Math.min(36, 3.4 * -Math.log2(Math.max(probability, 1e-6))));
}

class Sheet {
  constructor(root) {
    this.root = root;
    this.area = root.querySelector("textarea");
    this.marks = root.querySelector(".marks");
    this.choices = root.querySelector(".choices");
    this.offer = root.querySelector(".offer");
    this.status = root.querySelector("[role=status]");
    this.text = "";
    this.segments = [];
    this.sent = Date.now(); // goes on growing when the page is built again
    this.area.addEventListener("input", () => this.typed());
    this.area.addEventListener("blur", () => this.send());
    this.area.addEventListener("keydown", (event) => this.key(event));
    this.area.addEventListener("click", () => this.data.tokens && this.openChoices(false));
    this.choices.addEventListener("keydown", (event) => event.key === "Escape" && this.closeChoices(true));
    this.offer.querySelector(".take").addEventListener("click", () => this.restore(localStorage.getItem(STORED)));
    this.offer.querySelector(".leave").addEventListener("click", () => { this.offer.hidden = true; });
  }

  update({ data, setStateValue, setTriggerValue }) {
    const followed = this.data === undefined || this.endInSight();
    const first = this.data === undefined;
    const begun = first || !this.data.fresh; // also where the desk's server was started anew under an open page
    const text = data.segments.map(([part]) => part).join("");
    const another = first || data.epoch !== this.data.epoch;
    Object.assign(this, { data, setStateValue, setTriggerValue });
    if (another || data.writing || text === this.text) {
      if (another) clearTimeout(this.timer);
      this.segments = data.segments;
      this.show(text);
    }
    this.root.classList.toggle("choosing", data.choosing);
    this.area.readOnly = data.writing;
    this.area.placeholder = data.writing ? "" : "Write a beginning here, or take an opening below.";
    if (this.status.textContent !== data.status) this.status.textContent = data.status;
    if (another && data.to_end) this.marks.lastChild.scrollIntoView({ block: first ? "center" : "nearest" });
    else if (data.writing && followed) this.marks.lastChild.scrollIntoView({ block: "nearest" });
    if (this.opened !== undefined) this.openChoices(false, this.opened);
    this.keep(begun);
  }

  show(text) {
    if (this.area.value !== text) {
      const { selectionStart, selectionEnd, value } = this.area;
      const same = value.slice(0, selectionEnd) === text.slice(0, selectionEnd) && selectionEnd < value.length;
      this.area.value = text;
      if (same) this.area.setSelectionRange(selectionStart, selectionEnd);
    }
    this.text = text;
    this.draw();
  }

  draw() {
    const spans = this.segments.map(([text, hand, probability, index]) => {
      const span = document.createElement("span");
      span.textContent = text;
      span.className = hand;
      if (this.data.tokens && probability !== null) {
        span.classList.add("token");
        span.style.setProperty("--doubt", `${shade(probability)}%`);
      }
      if (index !== null) span.dataset.index = index;
      return span;
    });
    const end = document.createElement("span");
    end.className = this.data.coming ? "end writing" : "end";
    end.textContent = "\u200b"; // an empty last line has its height too
    this.marks.replaceChildren(...spans, end);
  }

  typed() {
    this.segments = edited(this.segments, this.text, this.area.value);
    this.text = this.area.value;
    this.dirty = true;
    this.closeChoices();
    this.draw();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.send(), SEND_MILLISECONDS);
  }

  edit() {
    return { epoch: this.data.epoch, number: ++this.sent, text: this.text };
  }

  send() {
    clearTimeout(this.timer);
    if (!this.dirty) return;
    this.dirty = false;
    this.setStateValue("edit", this.edit());
  }

  act(name, more = {}) {
    clearTimeout(this.timer);
    this.dirty = false;
    this.setTriggerValue("act", { name, ...this.edit(), ...more });
  }

  key(event) {
    const command = event.ctrlKey || event.metaKey;
    const letter = event.key.toLowerCase();
    if (command && event.key === "Enter") this.act(event.shiftKey ? "retry" : "continue");
    else if (command && (letter === "y" || (letter === "z" && event.shiftKey))) this.act("redo");
    else if (command && letter === "z") this.act("undo");
    else if (command && event.key === ".") this.openChoices(true);
    else if (event.key === "Escape" && !this.choices.hidden) this.closeChoices(true);
    else if (event.key === "Escape" && this.data.writing) this.act("stop");
    else return;
    event.preventDefault();
  }

  tokenAtCaret() {
    let at = 0;
    for (const [text, , , index] of this.segments) {
      at += text.length;
      if (this.area.selectionStart < at) return index;
    }
    return null;
  }

  /** What else might have stood at the caret; with `focus` the keyboard goes there. */
  openChoices(focus, index = this.area.selectionStart === this.area.selectionEnd ? this.tokenAtCaret() : null) {
    const span = index === null ? null : this.marks.querySelector(`[data-index="${index}"]`);
    const alternatives = this.data.alternatives[index];
    this.marks.querySelector(".open")?.classList.remove("open");
    if (!span || !alternatives) return this.closeChoices();
    span.classList.add("open");
    if (this.opened === index && !focus) return undefined; // its buttons stay, and the focus on one of them
    this.opened = index;
    const share = (probability) => (probability < 0.001 ? "under 0.1%" : `${(100 * probability).toFixed(1)}%`);
    const shown = (text) => text.replaceAll("\n", "↵") || "nothing";
    const said = document.createElement("p");
    const probability = this.segments.find(([, , , i]) => i === index)[2];
    said.textContent = `“${shown(span.textContent.trim())}”${probability === null ? "" : ` was ${share(probability)} likely`}. Go on instead with`;
    const buttons = alternatives.map(([text, likely], number) => {
      const button = document.createElement("button");
      const quoted = document.createElement("q");
      const much = document.createElement("span");
      button.type = "button";
      quoted.textContent = shown(text);
      much.className = "share";
      much.textContent = share(likely);
      button.append(quoted, much);
      button.addEventListener("click", () => {
        this.closeChoices(true);
        this.act("choose", { index, alternative: number });
      });
      return button;
    });
    this.choices.setAttribute("aria-label", `Instead of “${span.textContent.trim()}”`);
    this.choices.replaceChildren(said, ...buttons);
    this.choices.hidden = false;
    this.choices.style.top = `${span.offsetTop + span.offsetHeight + 4}px`;
    const most = this.marks.clientWidth - this.choices.offsetWidth;
    this.choices.style.left = `${Math.max(0, Math.min(span.offsetLeft, most))}px`;
    this.choices.scrollIntoView({ block: "nearest" });
    if (focus) buttons[0]?.focus({ preventScroll: true });
    return undefined;
  }

  closeChoices(back = false) {
    this.opened = undefined;
    this.choices.hidden = true;
    this.marks.querySelector(".open")?.classList.remove("open");
    if (back) this.area.focus({ preventScroll: true });
  }

  endInSight() {
    const end = this.marks.lastChild?.getBoundingClientRect();
    return !end || end.top < window.innerHeight + 80;
  }

  /** A copy of the text in this browser: a page that is loaded again, or whose server was, goes on with it. */
  keep(begun) {
    try {
      if (begun && this.data.fresh) {
        const here = sessionStorage.getItem(STORED);
        if (here) this.restore(here);
        else if (localStorage.getItem(STORED)) this.offerLast();
      } else if (this.data.draft === this.kept) {
        return; // another page may have kept another text since
      } else if (this.data.draft === "") {
        sessionStorage.removeItem(STORED);
        localStorage.removeItem(STORED);
      } else if (this.data.draft) {
        sessionStorage.setItem(STORED, this.data.draft);
        localStorage.setItem(STORED, this.data.draft);
      }
      this.kept = this.data.draft ?? this.kept;
    } catch { /* a browser that stores nothing, or has no more room: saving to a file remains */ }
    if (!this.data.fresh) this.offer.hidden = true;
  }

  restore(draft) {
    this.offer.hidden = true;
    if (draft) this.act("restore", { draft });
  }

  offerLast() {
    const title = JSON.parse(localStorage.getItem(STORED)).title;
    this.offer.querySelector("p").textContent = `${title ? `“${title}”` : "A text"} is still here from your last visit.`;
    this.offer.hidden = false;
  }
}

export default function (component) {
  const root = component.parentElement.querySelector(".desk");
  root.sheet ??= new Sheet(root);
  root.sheet.update(component);
}
