"""From text to training batches. Knows torch in `batches` alone."""
