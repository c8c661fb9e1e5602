"""python -m fastgan: the command line."""

from fastgan.cli import main

raise SystemExit(main())
