"""Real servers, measured side by side through their public HTTP API."""
