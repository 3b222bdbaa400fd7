"""HTTP: the routes, the OpenAI protocol, errors, authentication, metrics."""
