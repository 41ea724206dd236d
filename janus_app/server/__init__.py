"""Who may reach the app over HTTP."""
