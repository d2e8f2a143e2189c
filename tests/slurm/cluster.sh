#!/usr/bin/env bash
# A real Slurm cluster on this machine: slurmctld, munge and two nodes with two pretended GPUs each, on loopback only.
#
#   tests/slurm/cluster.sh up     from Debian's packages, as root; seconds once they are installed. Then: . $CLUSTER/env.sh
#   tests/slurm/cluster.sh down   stops exactly the processes that `up` started
#   tests/slurm/cluster.sh can    succeeds where `up` can work, and otherwise says why not
#
# CLUSTER (default /tmp/weaver-tasks-slurm) holds its configuration, state and logs. NODES, CPUS, MEMORY (MB) and GPUS size it.
set -euo pipefail
: "${CLUSTER:=/tmp/weaver-tasks-slurm}" "${NODES:=2}" "${CPUS:=8}" "${MEMORY:=64000}" "${GPUS:=2}"
LINK=/etc/slurm/slurm.conf
MARK='# weaver-tasks-slurm'
export SLURM_CONF=$CLUSTER/slurm.conf

names() { seq -f 'wt-node%g' 1 "$NODES"; }

# The process of a pid file, if it lives and is the program that we started.
process() {
  local pid
  [ -s "$1" ] && pid=$(tr -dc 0-9 <"$1") && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$2" ] && echo "$pid"
}

within() { # within SECONDS COMMAND...: until the command succeeds
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || return 1; sleep 0.1; done
}

can() {
  [ "$(uname -s)" = Linux ] && [ -x /usr/bin/apt-get ] || { echo "a Slurm cluster is brought up from Debian's packages, and this is not Debian"; return 1; }
  [ "$(id -u)" = 0 ] || { echo "bringing up a Slurm cluster needs root"; return 1; }
  [ ! -e $LINK ] || [ "$(readlink $LINK)" = "$SLURM_CONF" ] || { echo "$LINK exists: this machine belongs to another Slurm cluster"; return 1; }
}

install_packages() {
  local wanted=() policy=/usr/sbin/policy-rc.d own_policy=0
  [ -x /usr/sbin/munged ] || wanted+=(munge)
  [ -x /usr/sbin/slurmctld ] || wanted+=(slurmctld)
  [ -x /usr/sbin/slurmd ] || wanted+=(slurmd)
  [ -x /usr/bin/sbatch ] || wanted+=(slurm-client)
  [ ${#wanted[@]} -gt 0 ] || return 0
  # Debian starts the daemons of new packages, with a configuration of its own: not here.
  if [ ! -e $policy ]; then printf '#!/bin/sh\nexit 101\n' >$policy; chmod 755 $policy; own_policy=1; fi
  local done=0
  export DEBIAN_FRONTEND=noninteractive
  if apt-get install -y -q --no-install-recommends "${wanted[@]}" >"$CLUSTER/log/apt.log" 2>&1 ||
    { apt-get update -q && apt-get install -y -q --no-install-recommends "${wanted[@]}"; } >>"$CLUSTER/log/apt.log" 2>&1; then done=1; fi
  [ $own_policy = 0 ] || rm -f $policy
  [ $done = 1 ] || { tail -n 5 "$CLUSTER/log/apt.log" >&2; return 1; }
}

configure() {
  local host port=26850 node
  host=$(hostname -s)
  {
    cat <<END
ClusterName=weavertasks
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=26850
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$CLUSTER/munge.sock
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=$CLUSTER/state/controller
SlurmdSpoolDir=$CLUSTER/state/%n
SlurmctldPidFile=$CLUSTER/pid/slurmctld
SlurmdPidFile=$CLUSTER/pid/slurmd.%n
SlurmctldLogFile=$CLUSTER/log/slurmctld.log
SlurmdLogFile=$CLUSTER/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=1
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=5,bf_interval=5
PriorityType=priority/basic
MinJobAge=3600
KillWait=5
SlurmctldTimeout=30
SlurmdTimeout=30
PropagateResourceLimits=NONE
GresTypes=gpu
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
END
    for node in $(names); do
      port=$((port + 1))
      echo "NodeName=$node NodeHostname=$host NodeAddr=127.0.0.1 Port=$port CPUs=$CPUS Sockets=1 CoresPerSocket=$CPUS ThreadsPerCore=1" \
        "RealMemory=$MEMORY Gres=gpu:$GPUS State=UNKNOWN"
    done
    echo "PartitionName=main Nodes=ALL Default=YES MaxTime=1-00:00:00 DefaultTime=60 DefMemPerCPU=500 State=UP"
  } >"$CLUSTER/slurm.conf"
  : >"$CLUSTER/gres.conf"
  for node in $(names); do
    # Slurm wants devices, but does not open them.
    for gpu in $(seq 0 $((GPUS - 1))); do [ -e "$CLUSTER/dev/nvidia$gpu" ] || mknod "$CLUSTER/dev/nvidia$gpu" c 195 "$gpu"; done
    echo "NodeName=$node Name=gpu File=$CLUSTER/dev/nvidia[0-$((GPUS - 1))]" >>"$CLUSTER/gres.conf"
    mkdir -p "$CLUSTER/state/$node"
  done
  # Snakemake's job steps drop SLURM_CONF from the environment: the compiled-in path must do.
  mkdir -p "$(dirname $LINK)" && ln -sfn "$SLURM_CONF" $LINK
  grep -q "$MARK\$" /etc/hosts || echo "127.0.0.1 $(names | tr '\n' ' ')$MARK" >>/etc/hosts
  echo "export SLURM_CONF=$SLURM_CONF" >"$CLUSTER/env.sh"
}

start_node() {
  process "$CLUSTER/pid/slurmd.$1" slurmd >/dev/null || slurmd -N "$1" 2>>"$CLUSTER/log/slurmd.$1.err"
}

ready() { [ "$(sinfo -h -N -t idle,mixed,allocated -o '%t' | grep -vc '\*')" = "$NODES" ]; }

up() {
  can >&2 || return 1
  mkdir -p "$CLUSTER"/{log,pid,dev,state/controller}
  chmod 755 "$CLUSTER" "$CLUSTER"/{log,pid,dev,state}
  install_packages
  configure
  if ! process "$CLUSTER/pid/munged" munged >/dev/null; then
    [ -s "$CLUSTER/munge.key" ] || (umask 077 && head -c 1024 /dev/urandom >"$CLUSTER/munge.key")
    rm -f "$CLUSTER/munge.sock" "$CLUSTER/munge.sock.lock"
    munged --force --socket="$CLUSTER/munge.sock" --key-file="$CLUSTER/munge.key" --num-threads=2 --pid-file="$CLUSTER/pid/munged" \
      --log-file="$CLUSTER/log/munged.log" --seed-file="$CLUSTER/munge.seed" 2>>"$CLUSTER/log/munged.err"
  fi
  within 10 munge -S "$CLUSTER/munge.sock" -n || { echo "munged did not start: see $CLUSTER/log" >&2; return 1; }
  process "$CLUSTER/pid/slurmctld" slurmctld >/dev/null || slurmctld 2>>"$CLUSTER/log/slurmctld.err"
  within 20 scontrol ping || { echo "slurmctld did not start: see $CLUSTER/log" >&2; return 1; }
  for node in $(names); do start_node "$node"; done
  within 60 ready || { sinfo -N -l >&2; echo "the nodes did not come up: see $CLUSTER/log" >&2; return 1; }
  sinfo -N -o '%N %t %c CPUs %m MB %G'
}

stop() { # stop PIDFILE PROGRAM
  local pid
  pid=$(process "$1" "$2") || { rm -f "$1"; return 0; }
  kill -TERM "$pid"
  within 20 test ! -d "/proc/$pid" || kill -KILL "$pid"
  rm -f "$1"
}

no_jobs() { [ -z "$(timeout 10 squeue -h -t RUNNING,COMPLETING,PENDING -o %A)" ]; }

down() {
  [ -d "$CLUSTER/pid" ] || { echo "no cluster in $CLUSTER"; return 0; }
  if process "$CLUSTER/pid/slurmctld" slurmctld >/dev/null; then
    timeout 10 squeue -h -o %A | xargs --no-run-if-empty timeout 20 scancel --full --signal=KILL || true
    within 20 no_jobs || echo "some jobs did not end" >&2
  fi
  for file in "$CLUSTER"/pid/slurmd.*; do [ ! -e "$file" ] || stop "$file" slurmd; done
  stop "$CLUSTER/pid/slurmctld" slurmctld
  stop "$CLUSTER/pid/munged" munged
  if [ "$(readlink $LINK)" = "$SLURM_CONF" ]; then rm -f $LINK; fi
  # In place: /etc/hosts may be a bind mount.
  if grep -q "$MARK\$" /etc/hosts; then local others; others=$(grep -v "$MARK\$" /etc/hosts); printf '%s\n' "$others" >/etc/hosts; fi
  rm -rf "$CLUSTER/state" "$CLUSTER/pid"
}

case "${1:-}" in
  up | down | can) "$1" ;;
  start-node) start_node "$2" ;;
  *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
