#!/bin/sh
# The entrypoint of Dockerfile.training: `docker run IMAGE [MODULE] [ARGUMENTS]`.
# Without a module it is the XGBoost training job. All that is written, scratch of libraries included, goes to the work folder.
set -eu

work=${MBTA_ML_HOME:-/work}
if ! { mkdir -p "$work" && [ -w "$work" ] && cd "$work"; } 2>/dev/null; then
    echo "The work folder $work can't be written to by uid $(id -u) (it belongs to uid $(stat -c %u "$work" 2>/dev/null || echo unknown)): on the host, chown $(id -u) the folder that is mounted there, or run with --user \"\$(id -u):\$(id -g)\"." >&2
    exit 1
fi
work=$PWD
export MBTA_ML_HOME="$work" HOME="$work"

# The container's own /tmp goes with the container; where the root is read-only, a folder of this container's own takes its place.
# Its path is short because Ray puts sockets 80 bytes below it, and a socket's path may have 107. What stays of it may be removed.
if [ -z "${TMPDIR:-}" ] && [ ! -w /tmp ]; then
    mkdir -p .tmp
    TMPDIR=$(mktemp -d "$work/.tmp/XXXXXX")
    export TMPDIR
fi

case ${1:-} in
    '' | -*) set -- mbta_ml.ml.xgboost_trainer "$@" ;;
esac

# On Vertex AI something has to be done around the command: results, checkpoints, log.
if [ -n "${CLOUD_ML_JOB_ID:-}" ]; then
    set -- mbta_ml.on_vertex "$@"
fi

# Process 1 of a container hears only the signals that it asked for. Until the module listens (its imports take seconds), SIGTERM
# ends it at once: nothing is written yet.
exec python -c '
import runpy, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
' "$@"
