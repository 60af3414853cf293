"""What every training method shares: parametrisation, layer choice, session, optimizer hooks, finalize."""
