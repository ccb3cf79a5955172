#!/usr/bin/env bash
# One case in a container on a machine with cards that has no engine: Podman out of Debian's packages, on the machine's own root file system.
#   tests/device/container.sh DEBS [CHIP]     DEBS: folder of packages, filled elsewhere by: tests/device/container-debs.sh DEBS
# Needs root and a Python 3.11 or newer with torch and the kit's packages (PYTHON, default python3). Every step's output lies under $OUT.
# ROOT (default /) is the file system of the container: a folder with an exported image serves as well. Ends after 4 minutes at most.
set -uo pipefail
cd "$(dirname "$0")/../.."
debs=$(realpath "$1") chip=${2:-nvidia} out=${OUT:-$(mktemp -d)} root=${ROOT:-/} python=${PYTHON:-$(command -v python3)}
mkdir -p "$out"
box=$(mktemp -d) tools=$box/tools
step() { # NAME SECONDS COMMAND...: run it within the limit, keep what it says, go on whatever comes of it
  local name=$1 limit=$2; shift 2
  echo "== $name"
  timeout "$limit" "$@" >"$out/$name.txt" 2>&1; local code=$?
  tail -n 15 "$out/$name.txt"; echo "== $name: exit $code"
  return $code
}
known=/etc/ld.so.conf.d/zz-chipassay-box.conf
finish() { podman rm -af >/dev/null 2>&1; umount "$box/root" 2>/dev/null; rm -rf "$box/storage" "$tools"; [ ! -e "$known" ] || { rm -f "$known"; ldconfig; }; }
trap finish EXIT

unpack() { mkdir -p "$tools"; for deb in "$debs"/*.deb; do dpkg -x "$deb" "$tools" || return 1; done; ls "$tools/usr/bin" "$tools/usr/sbin" 2>/dev/null; }
facts() { uname -a; id; grep -E 'Cap|Seccomp|NoNewPrivs' /proc/self/status; cat /proc/self/cgroup; ls /sys/fs/cgroup; findmnt -n -o TARGET,FSTYPE,OPTIONS | head -40; ls -l /dev/nvidia* 2>/dev/null; true; }
configure() {
  mkdir -p "$box"/{root,storage,run,case,etc}
  printf '[containers]\npids_limit = 0\ndefault_ulimits = []\nlog_driver = "k8s-file"\nnetns = "none"\nutsns = "private"\n%s\n' "init_path = \"$tools/usr/libexec/podman/catatonit\"" >"$box/etc/containers.conf"
  printf '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\nconmon_path = ["%s"]\nhelper_binaries_dir = ["%s"]\nruntime = "%s"\n[engine.runtimes]\nrunc = ["%s"]\ncrun = ["%s"]\n' \
    "$tools/usr/bin/conmon" "$tools/usr/libexec/podman" "${RUNTIME:-runc}" "$tools/usr/sbin/runc" "$tools/usr/bin/crun" >>"$box/etc/containers.conf"
  [ -x "$tools/usr/libexec/podman/catatonit" ] || { mkdir -p "$tools/usr/libexec/podman"; cp "$tools/usr/bin/catatonit" "$tools/usr/libexec/podman/"; }
  printf '[storage]\ndriver = "vfs"\ngraphroot = "%s"\nrunroot = "%s"\n' "$box/storage" "$box/run" >"$box/etc/storage.conf"
  printf '{"default": [{"type": "insecureAcceptAnything"}]}\n' >"$box/etc/policy.json"
  mount --bind "$root" "$box/root" && mkdir -p "$box/root/case" "$box/root/sys/fs/cgroup" && touch "$box/root/worker.pyz" && cat "$box/etc/containers.conf"
}
export CONTAINERS_CONF="$box/etc/containers.conf" CONTAINERS_STORAGE_CONF="$box/etc/storage.conf"
podman() { LD_LIBRARY_PATH="$tools/usr/lib/x86_64-linux-gnu:$tools/lib/x86_64-linux-gnu" "$tools/usr/bin/podman" "$@"; }
libraries() { # those that this machine lacks, known to its linker for the time: Podman gives its helpers no search path
  local lib have; have=$(ldconfig -p); mkdir -p "$tools/lacking"
  for lib in "$tools"/usr/lib/x86_64-linux-gnu/*.so.* "$tools"/lib/x86_64-linux-gnu/*.so.*; do
    [[ $lib =~ \.so\.[0-9]+$ ]] || continue # a soname; what it links to comes along
    grep -q "^[[:space:]]*${lib##*/} " <<<"$have" || ln -sf "$lib" "$tools/lacking/"
  done
  chmod -R a+rX "$tools" && echo "$tools/lacking" >"$known" && ldconfig && ls "$tools/lacking" && "$tools/usr/bin/conmon" --version && "$tools/usr/sbin/runc" --version
}
version() { podman --version && podman info; }
plan() { "$python" tests/device/boxed.py plan "$chip" "$box" "$root" "${INSIDE:-$python}" >"$box/argv" && tr '\0' ' ' <"$box/argv"; }
start() { mapfile -d '' -t argv <"$box/argv"; podman "${argv[@]:1}"; }
bare() { # without bounds: a machine whose control groups belong to somebody else
  mapfile -d '' -t argv <"$box/argv"; local kept=() skip=0
  for part in "${argv[@]:2}"; do
    if [ $skip = 1 ]; then skip=0; elif [ "$part" = --memory ] || [ "$part" = --pids-limit ]; then skip=1; else kept+=("$part"); fi
  done
  podman run --cgroups=disabled "${kept[@]}"
}
judge() { cp "$box"/case/* "$out"/ && "$python" tests/device/boxed.py judge "$chip" "$box" "$root"; }
export -f unpack facts configure podman libraries version plan start bare judge
export debs chip out root python box tools known

step facts 10 bash -c facts
step unpack 30 bash -c unpack || exit 1
step configure 10 bash -c configure || exit 1
step libraries 20 bash -c libraries
step version 20 bash -c version || exit 1
step plan 30 bash -c plan || exit 1
RAN=1
for runtime in runc crun; do # Debian's crun refuses machines that have both versions of control groups
  export RUNTIME=$runtime
  sed -i "s/^runtime = .*/runtime = \"$runtime\"/" "$box/etc/containers.conf"
  for way in start bare; do
    step "$way-$runtime" 80 bash -c "$way" && { RAN=0; break 2; }
  done
done
[ $RAN = 0 ] || exit 1
step judge 30 bash -c judge
