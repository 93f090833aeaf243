#!/usr/bin/env bash
# Prints what `--version` is to say of the sources, fit for `eval "$(scripts/revision.sh)"`: the commit, and whether they are as it has
# them. Of sources without history it prints nothing, and the version says `unknown`.
set -euo pipefail
cd "$(dirname "$0")/.."
commit=$(git rev-parse --verify --quiet HEAD 2>/dev/null) || exit 0
status=Clean
[[ -z $(git status --porcelain --untracked-files=no) ]] || status=Modified
printf 'export OUTRIGGER_REVISION=%s OUTRIGGER_STATUS=%s\n' "$commit" "$status"
