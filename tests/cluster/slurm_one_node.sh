#!/usr/bin/env bash
# A real Slurm of one node on this machine, of Debian's packages, as root: `slurm_one_node.sh FOLDER` installs what is missing,
# starts it with its files in the folder, and prints the path of its slurm.conf. Ends with the processes in FOLDER/*.pid.
set -euo pipefail
folder=$(mkdir -p "$1" && cd "$1" && pwd) host=$(hostname -s)
if ! command -v slurmctld >/dev/null || ! command -v munged >/dev/null; then
  apt-get update -qq >/dev/null 2>&1
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq slurmctld slurmd munge slurm-client >/dev/null 2>&1
fi
mkdir -p "$folder"/{state,spool} /run/munge /var/log/munge
chown munge /run/munge /var/log/munge
[ -f /etc/munge/munge.key ] || mungekey -c
chown munge /etc/munge/munge.key
if ! munge -n 2>/dev/null | unmunge >/dev/null 2>&1; then
  su -s /bin/bash munge -c /usr/sbin/munged >/dev/null
  for _ in $(seq 20); do pgrep -xn munged >"$folder/munged.pid" && break; sleep 0.2; done
fi
cat >"$folder/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmctldPort=16917
SlurmdPort=16918
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$folder/slurm.conf
slurmctld -f "$SLURM_CONF" >/dev/null 2>&1
slurmd -f "$SLURM_CONF" >/dev/null 2>&1
for _ in $(seq 60); do sinfo -h -o %T 2>/dev/null | grep -q idle && break; sleep 0.5; done
sinfo -h -o %T | grep -q idle
echo "$SLURM_CONF"
