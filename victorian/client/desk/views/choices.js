// How likely a token was, and what else might have stood at the caret: a list beside the word, to take one of.

const [HEAD, FOOT] = [64, 144]; // pixels of a window that the desk's own rows may cover

/** How strongly a token is shaded, in percent: by its surprise in bits, since most words of good prose are unlikely. */
function shade(probability) {
  return Math.round(Math.min(36, 3.4 * -Math.log2(Math.max(probability, 1e-6))));
}

function share(probability) {
  return probability < 0.001 ? "under 0.1%" : `${(100 * probability).toFixed(1)}%`;
}

function shown(text) {
  return text.replaceAll("\n", "↵") || "nothing";
}

class Choices {
  constructor(sheet) {
    this.sheet = sheet;
    this.list = sheet.root.querySelector(".choices");
    this.index = undefined; // the number of the token for which it is open
    this.list.addEventListener("keydown", (event) => event.key === "Escape" && this.close(true));
  }

  get open() {
    return !this.list.hidden;
  }

  tokenAtCaret() {
    const { selectionStart, selectionEnd } = this.sheet.area;
    let at = 0;
    for (const [text, , , index] of selectionStart === selectionEnd ? this.sheet.segments : []) {
      at += text.length;
      if (selectionStart < at) return index;
    }
    return null;
  }

  /** Show it for the token at the caret; with `focus` the keyboard goes there. */
  show(focus, index = this.tokenAtCaret()) {
    const { marks, data, segments } = this.sheet;
    const span = index === null ? null : marks.querySelector(`[data-index="${index}"]`);
    const alternatives = data.alternatives[index];
    marks.querySelector(".open")?.classList.remove("open");
    if (!span || !alternatives) {
      this.close();
      return;
    }
    span.classList.add("open");
    if (this.index === index && !focus) return; // its buttons stay, and the focus on one of them
    this.index = index;
    const word = shown(span.textContent.trim() || span.textContent);
    const probability = segments.find(([, , , number]) => number === index)[2];
    const said = document.createElement("p");
    said.textContent = `“${word}”${probability === null ? "" : ` was ${share(probability)} likely`}. Go on instead with`;
    const buttons = alternatives.map((alternative, number) => this.button(index, alternative, number));
    this.list.setAttribute("aria-label", `Instead of “${word}”`);
    this.list.replaceChildren(said, ...buttons);
    this.list.hidden = false;
    this.placeAt(span);
    if (focus) buttons[0]?.focus({ preventScroll: true });
  }

  button(index, [text, likely], number) {
    const button = document.createElement("button");
    const quoted = document.createElement("q");
    const much = document.createElement("span");
    button.type = "button";
    quoted.textContent = shown(text);
    much.className = "share";
    much.textContent = share(likely);
    button.append(quoted, much);
    button.addEventListener("click", () => {
      this.close(true);
      this.sheet.act("choose", { index, alternative: number });
    });
    return button;
  }

  /** Under the word, or above it where the window has no room below. */
  placeAt(span) {
    const { top, bottom } = span.getBoundingClientRect();
    const high = this.list.offsetHeight + 4;
    const above = bottom + high + FOOT > window.innerHeight && top > high + HEAD;
    this.list.style.top = `${span.offsetTop + (above ? -high : span.offsetHeight + 4)}px`;
    const most = this.sheet.marks.clientWidth - this.list.offsetWidth;
    this.list.style.left = `${Math.max(0, Math.min(span.offsetLeft, most))}px`;
    this.list.scrollIntoView({ block: "nearest" });
  }

  close(back = false) {
    this.index = undefined;
    this.list.hidden = true;
    this.sheet.marks.querySelector(".open")?.classList.remove("open");
    if (back) this.sheet.area.focus({ preventScroll: true });
  }
}
