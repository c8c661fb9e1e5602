"""python -m fastgan: the command line."""

from fastgan.apps.cli import main

raise SystemExit(main())
