"""`python -m deploy.cli` is `parley`."""

from __future__ import annotations

from deploy.cli.main import main

raise SystemExit(main())
