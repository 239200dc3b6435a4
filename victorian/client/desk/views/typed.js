// What was typed on a text, found by what it was before and after.

/** How many characters two texts have in common at the beginning, and at the end. */
function alike(before, after) {
  let first = 0;
  const shorter = Math.min(before.length, after.length);
  while (first < shorter && before[first] === after[first]) first++;
  let last = 0;
  while (last < shorter - first && before[before.length - 1 - last] === after[after.length - 1 - last]) last++;
  return [first, last];
}

/** What was typed on a text, `[typed, from, to]` on what has become of it: as far from its end as before, or its beginning. */
function moved(before, after, now) {
  const [first, last] = alike(before, after);
  const [same, sameEnd] = alike(before, now);
  const typed = after.slice(first, after.length - last);
  const removed = before.length - first - last;
  const fromEnd = now.length - (before.length - first);
  if (before.length - first <= sameEnd) return [typed, fromEnd, fromEnd + removed];
  if (first + removed <= same) return [typed, first, first + removed];
  return [typed, now.length - sameEnd, now.length - sameEnd];
}

/** Segments [text, hand, probability, index] after a text became another; only what differs is the writer's. */
function edited(segments, before, after) {
  const [first, last] = alike(before, after);
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
