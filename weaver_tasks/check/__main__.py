"""`python -m weaver_tasks.check`"""

from weaver_tasks.base.command_line import run_command
from weaver_tasks.check.command import main

run_command(main)
