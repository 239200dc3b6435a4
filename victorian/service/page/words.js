// What the writer is told of how a generation ended, and of what went wrong.

function counted(tokens) {
  return tokens === 1 ? "1 token" : `${tokens} tokens`;
}

/** By the reason that the service gives, and the tokens written. */
const ENDS = {
  stop: (tokens) => `The model came to an end after ${counted(tokens)}.`,
  length: (tokens) => `Written: the ${counted(tokens)} asked for.`,
  cancelled: (tokens) => `Stopped after ${counted(tokens)}.`,
};
const TROUBLES = {
  overloaded: "The service is busy",
  rate_limited: "This key has had its share for now",
  shutting_down: "The service is being replaced",
  deadline_exceeded: "It took longer than this service allows. What has come is kept.",
  slow_reader: "This page could not keep up with the model. What has come is kept.",
  internal_error: "The service failed. What has come is kept.",
};
/** Troubles that pass. */
const RETRIED = ["overloaded", "rate_limited", "shutting_down"];
const TRIES = 5;
const PATIENCE = 10; // seconds that are waited for without being asked to
