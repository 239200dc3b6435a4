// What is kept until the tab is closed, where the browser lets a page keep anything.

class Shelf {
  /** `name` tells services apart that share a host. */
  constructor(name) {
    this.name = name;
  }

  read(label) {
    try {
      return JSON.parse(sessionStorage.getItem(`${this.name} ${label}`));
    } catch {
      return null;
    }
  }

  write(label, value) {
    try {
      if (value === null) sessionStorage.removeItem(`${this.name} ${label}`);
      else sessionStorage.setItem(`${this.name} ${label}`, JSON.stringify(value));
    } catch {
      // forbidden, or full
    }
  }
}
