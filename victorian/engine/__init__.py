"""Many requests through one model. Never imports training, and knows nothing of HTTP."""
