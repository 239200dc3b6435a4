// How the model writes. Ranges and defaults stand in the inputs, where the service has put them.

class Settings {
  #models;

  constructor(panel, choice) {
    this.choice = choice;
    this.#models = choice.querySelector("select");
    this.inputs = [...panel.querySelectorAll("[data-parameter]")];
    for (const input of this.inputs.filter(({ type }) => type === "range")) {
      const value = document.getElementById(`${input.id}-value`);
      const show = () => (value.textContent = input.value);
      input.addEventListener("input", show);
      show();
    }
    panel.open = matchMedia("(min-width: 64rem)").matches;
    this.panel = panel;
  }

  /** Let the writer choose among models, if there are several; what was chosen stays, where it is still there. */
  offer(models) {
    const chosen = this.#models.value;
    this.#models.replaceChildren(...models.map(({ id }) => new Option(id, id, false, id === chosen)));
    this.choice.hidden = models.length < 2;
  }

  get model() {
    return this.#models.value;
  }

  /** By name; an input that is empty is left to the service. Null, and the input shown, where one cannot be. */
  parameters() {
    const wrong = this.inputs.find((input) => !input.checkValidity());
    if (wrong) {
      this.panel.open = true;
      wrong.focus();
      return null;
    }
    const filled = this.inputs.filter((input) => input.value !== "");
    return Object.fromEntries(filled.map((input) => [input.id, input.valueAsNumber]));
  }

  /** What is wrong with an input, in words. */
  get problem() {
    const wrong = this.inputs.find((input) => !input.checkValidity());
    return wrong ? `${wrong.labels[0].textContent}: ${wrong.validationMessage}` : "";
  }
}
