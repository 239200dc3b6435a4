"""Where books come from. Knows neither torch nor Ray."""
