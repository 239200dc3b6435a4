// What the writer is told of how a generation ended, and of what went wrong.

const ENDS = {
  stop: () => "The model came to an end.",
  length: (tokens) => `Written: the ${tokens === 1 ? "one token" : `${tokens} tokens`} asked for.`,
  cancelled: () => "Stopped.",
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
