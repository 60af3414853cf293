"""Core of every training method: parametrisation, layer choice, session, optimizer hooks, finalize."""
