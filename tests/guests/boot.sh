#!/usr/bin/env bash
# Boots another kernel in QEMU (software emulation) with this machine's / as its root: read-only over
# virtiofs, a tmpfs overlay on top. Runs SCRIPT as root in it, its output on stdout, and powers off.
#
#   boot.sh KERNEL SCRIPT [CPUS] [MEGABYTES]     KERNEL: an unpacked linux-image package
#
# The guest is what users have: pure cgroup v2, full capabilities, bpffs, no network but lo.
# With GUEST_INIT=systemd its process 1 is systemd, with no unit of this machine's but the distribution's.
set -euo pipefail
kernel=$(readlink -f "$1") script=$(readlink -f "$2") cpus=${3:-2} memory=${4:-3072}
work=$(mktemp -d)
virtiofsd=
finish() {
  [ -z "$virtiofsd" ] || kill "$virtiofsd" 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT

release=$(ls "$kernel/lib/modules" | head -n 1)
[ -e "$kernel/lib/modules/$release/modules.dep.bin" ] || depmod -b "$kernel" "$release"

# The initrd: busybox, the modules that reach the root, and a switch to it.
initrd=$work/initrd.d
mkdir -p "$initrd"/{bin,modules,proc,sys,dev,ro,rw,new}
cp /bin/busybox "$initrd/bin/"
number=100
for module in virtio_pci virtiofs overlay; do
  modprobe -d "$kernel" -S "$release" --show-depends $module | awk '$1 == "insmod" {print $2}'
done | awk '!seen[$0]++' | while read -r file; do
  number=$((number + 1))
  case $file in
    *.xz) xz -dc "$file" >"$initrd/modules/$number.ko" ;;
    *) cp "$file" "$initrd/modules/$number.ko" ;;
  esac
done
cat >"$initrd/init" <<INIT
#!/bin/busybox sh
b=/bin/busybox
\$b mount -t proc proc /proc; \$b mount -t sysfs sysfs /sys; \$b mount -t devtmpfs dev /dev
for module in /modules/*.ko; do \$b insmod \$module; done
\$b mount -t virtiofs -o ro root /ro && \$b mount -t tmpfs -o size=75% rw /rw && \$b mkdir /rw/u /rw/w &&
  \$b mount -t overlay -o lowerdir=/ro,upperdir=/rw/u,workdir=/rw/w overlay /new || \$b poweroff -f
for dir in proc sys dev; do \$b mkdir -p /new/\$dir; \$b mount --move /\$dir /new/\$dir; done
\$b mkdir -p /new/lib/modules
exec \$b switch_root /new /bin/sh $work/main
INIT
chmod +x "$initrd/init"
cat >"$work/main" <<MAIN
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount --bind $kernel/lib/modules /lib/modules
# Overlays can't lie on overlays: images and snapshots go to plain memory.
for dir in bowline containerd; do mkdir -p /var/lib/\$dir; mount -t tmpfs -o mode=755 tmpfs /var/lib/\$dir; done
MAIN
if [ "${GUEST_INIT:-}" = systemd ]; then
  cat >>"$work/main" <<MAIN
rm -f /.dockerenv; ln -s /dev/null /etc/tmpfiles.d/tmp.conf  # no container, and what lies in /tmp stays
for dir in /etc/systemd/system /etc/init.d /usr/lib/systemd/system-generators; do mount -t tmpfs tmpfs \$dir; done
units=/etc/systemd/system; mkdir \$units/multi-user.target.wants
ln -s ../guest.service \$units/multi-user.target.wants/
ln -s /lib/systemd/system/multi-user.target \$units/default.target
for slow in getty.target systemd-logind.service; do ln -s /dev/null \$units/\$slow; done
cat >\$units/guest.service <<UNIT
[Service]
ExecStart=/bin/bash $script
ExecStopPost=/bin/sh -c 'echo "guest exit \\\$EXIT_STATUS"; sync; echo o >/proc/sysrq-trigger'
Environment=HOME=/root
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
UNIT
exec /lib/systemd/systemd --show-status=no
MAIN
else
  cat >>"$work/main" <<MAIN
mount -t tmpfs -o mode=755 tmpfs /run; mkdir -p /run/netns /run/lock /dev/shm /dev/pts
mount -t tmpfs tmpfs /dev/shm; mount -t devpts devpts /dev/pts
mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup; mount -t bpf bpf /sys/fs/bpf
mount --make-rshared /; ip link set lo up; hostname guest
bash $script
echo "guest exit \$?"
sync; echo o >/proc/sysrq-trigger; sleep 5
MAIN
fi
(cd "$initrd" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initrd"

mkdir "$work/root"
unshare -m --propagation private bash -c "
  mount --rbind / '$work/root' && mount -o remount,ro,bind '$work/root'
  exec /usr/lib/qemu/virtiofsd --socket-path='$work/virtiofs.sock' -o source='$work/root' -o cache=always \
    -o sandbox=chroot --rlimit-nofile=16000 --thread-pool-size=1" >"$work/virtiofs.log" 2>&1 &
virtiofsd=$!
for _ in $(seq 200); do [ -S "$work/virtiofs.sock" ] && break; sleep 0.05; done
[ -S "$work/virtiofs.sock" ] || { cat "$work/virtiofs.log" >&2; exit 1; }
qemu-system-x86_64 -M q35 -accel tcg,thread=multi -cpu max -smp "$cpus" -m "$memory" -nographic -no-reboot -nic none \
  -object memory-backend-memfd,id=mem,size="${memory}M",share=on -numa node,memdev=mem \
  -chardev socket,id=c0,path="$work/virtiofs.sock" -device vhost-user-fs-pci,chardev=c0,tag=root \
  -kernel "$kernel"/boot/vmlinuz-* -initrd "$work/initrd" -append "console=ttyS0 quiet panic=-1" </dev/null
