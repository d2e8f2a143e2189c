"""Check the RO-Crate of a run with roc-validator, without the network: python validate_crate.py RUN CONTEXT [--severity required]

RUN: results/<run>. CONTEXT: rocrate/data/ro-crate.jsonld of the rocrate package. Runs in an environment of its own, which has
roc-validator: that wants another version of rich than this project. Prints the issues; exit code 1 if there are some.
"""

import argparse
import json
import sys
from pathlib import Path

from requests import Response
from rocrate_validator import services
from rocrate_validator.models import ValidationSettings
from rocrate_validator.utils.http import HttpRequester

PROFILE = "provenance-run-crate-0.5"
CRATE = "https://w3id.org/ro/crate/1.1/context"
RUN_TERMS = "https://w3id.org/ro/terms/workflow-run"
# The library's context is of a later RO-Crate, which spells these otherwise than 1.1 does.
OF_1_1 = {
    "ComputationalWorkflow": "https://bioschemas.org/ComputationalWorkflow",
    "FormalParameter": "https://bioschemas.org/FormalParameter",
    "input": "https://bioschemas.org/ComputationalWorkflow#input",
    "output": "https://bioschemas.org/ComputationalWorkflow#output",
}


def serve(contexts: dict[str, dict]) -> None:
    """Let the validator take contexts from here, and nothing from the network."""

    def get(self: HttpRequester, url: str, **options: object) -> Response:
        response = Response()
        response.url, response.headers = url, {"Content-Type": "application/ld+json"}
        response.status_code = 200 if url in contexts else 404
        response._content = json.dumps(contexts.get(url, {})).encode()
        return response

    HttpRequester.get = get


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("context", type=Path)
    parser.add_argument("--severity", default="required", choices=["required", "recommended", "optional"])
    arguments = parser.parse_args()
    terms = json.loads(arguments.context.read_text())["@context"]
    run_terms = {name: f"{RUN_TERMS}#{name}" for name in ("environment", "sha256", "resourceUsage", "connection")}
    serve({CRATE: {"@context": {**terms, **OF_1_1}}, f"{RUN_TERMS}/context": {"@context": run_terms}})
    settings = ValidationSettings(
        rocrate_uri=str(arguments.run.absolute()),
        profile_identifier=PROFILE,
        requirement_severity=arguments.severity.upper(),
        skip_availability_check=True,
        no_cache=True,
    )
    result = services.validate(settings)
    for issue in result.get_issues():
        print(f"{issue.severity.name} {issue.check.identifier}: {issue.message} ({issue.violatingEntity})")
    print(f"{len(result.get_issues())} issues, of {len(result.executed_checks)} checks of {PROFILE} and the profiles that it builds on")
    sys.exit(0 if result.passed() else 1)


if __name__ == "__main__":
    main()
