"""`python -m weaver_tasks.import_weaver`"""

from weaver_tasks.base.command_line import run_command
from weaver_tasks.import_weaver.main import main

run_command(main)
