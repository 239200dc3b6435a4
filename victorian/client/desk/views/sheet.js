// The page of the manuscript: a plain text area, and behind it the same text with marks, which nothing in the text can
// become markup of: it is only ever set as text. The page that Python knows and the one that is typed on are told apart
// by `epoch`: it changes where the text became another without being typed here, and only then is the typed one replaced.

const SEND_MILLISECONDS = 500;
const ANSWER_MILLISECONDS = 3000; // after which it is asked again: a run that is broken off takes along what it was asked
const TRIES = 3;
const STORED = "victorian-desk";
const UNKEPT = "victorian-desk typed"; // what the stored text does not have yet
const WRITE = ["continue", "retry", "choose"];

class Sheet {
  constructor(root) {
    this.root = root;
    this.area = root.querySelector("textarea");
    this.marks = root.querySelector(".marks");
    this.offer = root.querySelector(".offer");
    this.status = root.querySelector("[role=status]");
    this.choices = new Choices(this);
    this.place = new Place(this);
    this.text = "";
    this.segments = [];
    this.said = ""; // the text that Python gave last, or was given
    this.known = ""; // the text that Python has for certain
    this.given = 0; // the number of the last edit that it was given
    this.late = null; // what was typed, `before` and after, too late to be heard, on the page that began at `start`
    this.start = 0; // where this page begins in the manuscript
    this.dirty = false; // whether something was typed that Python was not given
    this.kept = { before: "", start: 0 }; // the text that the stored draft has, and where it begins in the manuscript
    this.unkept = null; // the same with what was typed `after` it
    this.sent = Date.now(); // goes on growing when the page is built again
    this.area.addEventListener("input", () => this.typed());
    this.area.addEventListener("blur", () => this.send());
    this.area.addEventListener("keydown", (event) => this.key(event));
    this.area.addEventListener("click", () => this.data.tokens && this.choices.show(false));
    this.offer.querySelector(".take").addEventListener("click", () => this.restore(localStorage.getItem(STORED)));
    this.offer.querySelector(".leave").addEventListener("click", () => { this.offer.hidden = true; });
    window.addEventListener("pagehide", () => this.leave());
    if (window.victorianSheet) this.follow(window.victorianSheet);
    window.victorianSheet = this;
  }

  /** Streamlit may build the page again at any run: what was typed on the sheet before is not lost with it. */
  follow({ timer, text, said, dirty, known, given, late, start }) {
    clearTimeout(timer);
    Object.assign(this, { text, said, dirty, known, given, late, start, followed: true });
  }

  update({ data, setStateValue, setTriggerValue }) {
    const followed = this.data === undefined || this.endInSight();
    const first = this.data === undefined;
    const turned = !first && data.writing !== this.data.writing;
    if (turned) this.place.turn(data.writing);
    const anew = data.fresh && (first || !this.data.fresh); // also where the desk's server was, under an open page
    const text = data.segments.map(([part]) => part).join("");
    const another = first || anew || data.epoch !== this.data.epoch;
    const [said, typed, dirty] = [this.said, this.text, this.dirty];
    const unheard = data.heard < this.given; // or a press came before it: the text that it belongs to is another now
    if (anew) this.lost = first ? this.left() : this.unkept;
    Object.assign(this, { data, setStateValue, setTriggerValue });
    if (this.asked && (anew || data.acted >= this.asked.number)) this.answered();
    if (another || data.writing || text === this.text) {
      if (another) this.forget();
      this.segments = data.segments;
      this.show(text);
    }
    const missed = { before: unheard ? this.known : said, after: typed, start: this.start };
    if (another || !unheard) this.known = this.said;
    if (another) this.given = 0;
    if (another && (dirty || unheard) && (!anew || this.followed)) this.late ??= missed;
    this.followed = false;
    this.start = data.start;
    if (this.late?.start === data.start && !data.writing) this.retypeLate();
    if (this.lost?.before === text) this.retype(text, this.lost.after);
    if (this.lost?.before === text || !data.fresh) this.lost = null;
    if (!data.writing) {
      this.kept = { before: text, start: data.start };
      this.unkept = this.text === text ? null : { ...this.kept, after: this.text };
    }
    this.root.classList.toggle("choosing", data.choosing);
    this.area.readOnly = data.writing || WRITE.includes(this.asked?.name);
    this.area.placeholder = data.writing ? "" : "Write a beginning here, or take an opening below.";
    if (this.status.textContent !== data.status) this.status.textContent = data.status;
    if (another && !first && !data.writing && !turned) this.place.reveal();
    else if (another && data.to_end) this.marks.lastChild.scrollIntoView({ block: first ? "center" : "nearest" });
    else if (data.coming && followed) this.marks.lastChild.scrollIntoView({ block: "nearest" });
    if (this.choices.open) this.choices.show(false, this.choices.index);
    this.place.settle();
    this.keep(anew);
    if (this.next && !this.asked) this.act(...this.next);
  }

  show(text) {
    if (this.area.value !== text) {
      const [from, to] = this.place.caretOn(text);
      this.area.value = text;
      this.area.setSelectionRange(from, to);
    }
    this.text = this.said = text;
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
    this.unkept = { ...this.kept, after: this.text };
    this.dirty = true;
    this.choices.close();
    this.draw();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.send(), SEND_MILLISECONDS);
  }

  /** Type what was typed on a text that has become another. */
  retype(before, after) {
    this.area.setRangeText(...moved(before, after, this.area.value), "end");
    this.typed();
  }

  retypeLate() {
    const { before, after } = this.late;
    this.late = null;
    if (before !== after) this.retype(before, after);
  }

  edit() {
    this.said = this.text;
    return { epoch: this.data.epoch, number: ++this.sent, text: this.text };
  }

  send() {
    clearTimeout(this.timer);
    if (!this.dirty) return;
    if (this.asked) { // the answer may be another text, on which it is typed first
      this.timer = setTimeout(() => this.send(), SEND_MILLISECONDS);
      return;
    }
    this.dirty = false;
    const edit = this.edit();
    this.given = edit.number;
    this.setStateValue("edit", edit);
  }

  forget() {
    clearTimeout(this.timer);
    this.dirty = false;
  }

  act(name, more = {}) {
    this.next = this.asked && this.dirty ? [name, more] : undefined;
    if (this.next) return; // what was typed since comes first, on the text that the answer brings
    this.forget();
    const typed = this.text !== this.said; // a press alone changes no text, and may wait until the model has written
    this.asked = { name, ...this.edit(), ...more };
    if (typed && this.asked.epoch === this.data.epoch) this.given = this.asked.number;
    this.area.readOnly ||= WRITE.includes(name); // no letter is typed that the model's text would drive away
    // Heard, however far the desk's server is.
    this.marks.lastChild.classList.toggle("writing", this.data.coming || WRITE.includes(name));
    this.ask(TRIES);
  }

  ask(tries) {
    clearTimeout(this.asking);
    if (!tries) {
      this.next = undefined;
      this.answered();
      return;
    }
    this.setTriggerValue("act", this.asked);
    this.asking = setTimeout(() => this.ask(tries - 1), ANSWER_MILLISECONDS);
  }

  answered() {
    clearTimeout(this.asking);
    this.asked = undefined;
    this.area.readOnly = this.data.writing;
    this.marks.lastChild.classList.toggle("writing", this.data.coming);
  }

  key(event) {
    const command = event.ctrlKey || event.metaKey;
    const letter = event.key.toLowerCase();
    if (command && event.key === "Enter") this.act(event.shiftKey ? "retry" : "continue");
    else if (command && (letter === "y" || (letter === "z" && event.shiftKey))) this.act("redo");
    else if (command && letter === "z") this.act("undo");
    else if (command && event.key === ".") this.choices.show(true);
    else if (event.key === "Escape" && this.choices.open) this.choices.close(true);
    else if (event.key === "Escape" && (this.data.writing || this.asked)) this.act("stop");
    else return;
    event.preventDefault();
  }

  endInSight() {
    const end = this.marks.lastChild?.getBoundingClientRect();
    return !end || end.top < window.innerHeight + 80;
  }

  /** A copy of the text in this browser: a page that is loaded again, or whose server was, goes on with it. */
  keep(anew) {
    try {
      if (anew) {
        const here = sessionStorage.getItem(STORED);
        if (here) this.restore(here);
        else if (localStorage.getItem(STORED)) this.offerLast();
      } else if (this.data.draft === this.draft) {
        return; // another page may have kept another text since
      } else if (this.data.draft === "") {
        sessionStorage.removeItem(STORED);
        localStorage.removeItem(STORED);
      } else if (this.data.draft) {
        sessionStorage.setItem(STORED, this.data.draft);
        localStorage.setItem(STORED, this.data.draft);
      }
      this.draft = this.data.draft ?? this.draft;
    } catch { /* a browser that stores nothing, or has no more room: saving to a file remains */ }
    if (!this.data.fresh) this.offer.hidden = true;
  }

  restore(draft) {
    this.offer.hidden = true;
    // No text of this page goes along, which a new desk would take for typed on it.
    if (draft) this.act("restore", { draft, epoch: -1, index: this.lost?.start ?? 0 });
  }

  leave() {
    if (!this.root.isConnected) return; // another sheet has taken its place
    try {
      const left = this.unkept ?? this.lost;
      if (left) sessionStorage.setItem(UNKEPT, JSON.stringify(left));
      else sessionStorage.removeItem(UNKEPT);
    } catch { /* as in `keep` */ }
  }

  /** What the page before this one left behind. */
  left() {
    try {
      const left = JSON.parse(sessionStorage.getItem(UNKEPT));
      sessionStorage.removeItem(UNKEPT); // a sheet that is built again on this page finds nothing old
      return left;
    } catch {
      return null;
    }
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
