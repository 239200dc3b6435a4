// One WebSocket that mends itself. What is said on it is docs/protocol.md.

const CLOSED = { idle: 1000, changed: 1001 };
const PAUSES = [0.5, 1, 2, 4, 8, 15]; // seconds; the last for as long as it takes
const SILENCE = 15; // seconds of a generation after which the service is asked whether it is there

class Connection {
  /** opening, open, asleep (closed, and nobody minds), lost (and tried again), refused (a key is wanted), foreign */
  state = "asleep";
  models = [];
  key = null;
  busy = () => false; // whether somebody waits for an answer
  onstate = () => {};
  onmessage = () => {};
  #socket = null;
  #failures = 0;
  #timer = null;
  #heard = 0;

  constructor(address, protocol) {
    this.address = address;
    this.protocol = protocol;
    for (const [target, type] of [[window, "online"], [document, "visibilitychange"]]) {
      target.addEventListener(type, () => !document.hidden && this.state === "lost" && this.open());
    }
    setInterval(() => this.#listen(), 1000);
  }

  /** Connect, whatever was before; a key that no header can carry is refused as an unknown one would be. */
  open() {
    clearTimeout(this.#timer);
    this.#leave();
    let socket;
    try {
      socket = new WebSocket(this.address, this.key ? ["victorian", `bearer.${this.key}`] : []);
    } catch {
      this.#become("refused", "That cannot be a key: is it whole?");
      return;
    }
    this.#socket = socket;
    let words = "";
    socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      this.#heard = performance.now();
      if (message.type === "connected") this.#greet(message);
      else if (message.type === "error" && !("id" in message)) words = this.#complain(message);
      else this.onmessage(message);
    };
    socket.onclose = ({ code }) => socket === this.#socket && this.#closed(code, words);
    if (this.state !== "lost") this.#become("opening");
  }

  /** Be connected, or on the way to it. */
  wake() {
    if (this.state === "asleep" || this.state === "lost") this.open();
  }

  send(message) {
    this.#heard = performance.now();
    this.#socket.send(JSON.stringify(message));
  }

  #greet({ protocol, models }) {
    if (protocol !== this.protocol) {
      this.#leave();
      this.#become("foreign");
      return;
    }
    this.#failures = 0;
    this.models = models;
    this.#become("open");
  }

  #complain({ code, message }) {
    if (code === "unauthorized") this.#become("refused", this.key ? "The service does not know this key." : "");
    return message;
  }

  #closed(code, words) {
    this.#socket = null;
    if (this.state === "refused" || this.state === "foreign") return;
    if (code === CLOSED.idle && !this.busy()) {
      this.#become("asleep");
      return;
    }
    const pause = PAUSES[Math.min(this.#failures, PAUSES.length - 1)] * (0.75 + Math.random() / 2);
    this.#failures += 1;
    this.#timer = setTimeout(() => (document.hidden && !this.busy() ? null : this.open()), pause * 1000);
    // Other models are served, or another process serves them: nothing to tell unless that fails.
    this.#become(code === CLOSED.changed && !this.busy() && this.#failures === 1 ? "opening" : "lost", words);
  }

  /** A network that has gone away says no goodbye. */
  #listen() {
    if (this.state !== "open" || !this.busy()) return;
    const silent = (performance.now() - this.#heard) / 1000;
    if (silent > 2 * SILENCE) {
      this.#leave();
      this.#closed(null, "");
    } else if (silent > SILENCE && this.#socket.readyState === WebSocket.OPEN) {
      this.#socket.send('{"type":"ping"}');
    }
  }

  #leave() {
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  #become(state, words = "") {
    const before = this.state;
    this.state = state;
    this.onstate(state, words, before);
  }
}
