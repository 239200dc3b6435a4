// Where the writer is: the caret, what is in sight, and the keyboard's focus.

class Place {
  constructor(sheet) {
    this.sheet = sheet;
    this.area = sheet.area;
    this.left = null; // the caret as the model found it, where that was not behind the text
    this.byKey = false; // whether the last press was of a key
    this.adrift = false; // whether a button that had the focus may have gone
    window.addEventListener("keydown", () => { this.byKey = true; }, true);
    window.addEventListener("pointerdown", () => { this.byKey = false; }, true);
  }

  /** The model begins to write, or ends: other buttons stand under the sheet then. */
  turn(writing) {
    const { selectionStart: from, selectionEnd: to, value } = this.area;
    if (writing) this.left = to < value.length ? { from, to, start: this.sheet.start } : null;
    this.adrift = this.byKey;
  }

  /** From where to where the caret is to be on a text that comes into this one's place. */
  caretOn(text) {
    const { selectionStart: from, selectionEnd: to, value } = this.area;
    const { data, start } = this.sheet;
    const [ahead, left] = [data.start - start, this.left];
    if (!data.writing && left?.start === data.start && left.to <= text.length) return [left.from, left.to];
    if (!ahead && value.slice(0, to) === text.slice(0, to) && to < value.length) return [from, to];
    if (data.to_end && (ahead || to === value.length)) return [text.length, text.length];
    const [first, last] = alike(value.slice(Math.max(0, ahead)), text);
    let at = text.length - last; // behind what has changed
    if (ahead) at = ahead > 0 && first < text.length ? first : 0; // a part of the page that was there, or another
    return [at, at];
  }

  /** Bring the caret into sight. */
  reveal() {
    let rest = this.area.selectionStart;
    for (const { firstChild: words } of this.sheet.marks.children) {
      if (!words || rest > words.length) { // a token that is half a character has no text yet
        rest -= words?.length ?? 0;
        continue;
      }
      const range = document.createRange();
      const mark = document.createElement("span");
      mark.className = "end";
      range.setStart(words, rest);
      range.insertNode(mark);
      mark.scrollIntoView({ block: "nearest" });
      break;
    }
    this.sheet.draw();
  }

  /** The sheet is as it is to be. Whoever pressed a button with a key finds the focus on it when the button is gone: Tab
   * would begin at the top of the page. Who pressed with a finger is left alone: a phone would bring up its keyboard. */
  settle() {
    if (!this.sheet.data.writing) this.left = null;
    if (!this.adrift || document.activeElement !== document.body) return;
    this.adrift = false;
    this.area.focus({ preventScroll: true });
  }
}
