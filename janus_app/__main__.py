"""`python -m janus_app`."""

import sys

from janus_app.cli import main

sys.exit(main())
