# What the scripts of both packages do; packaging/build puts this in front of each. Members are neither enabled nor
# started by an installation: they need their configuration first.

# systemd runs this machine (and not a container that is being built, say).
booted() { [ -d /run/systemd/system ]; }

# After the files are in place, at an installation and at an upgrade.
placed() {
  systemd-sysusers kvnode.conf
  if [ ! -e /var/lib/kvnode ]; then
    install -d -o kvnode -g kvnode -m 0700 /var/lib/kvnode
  fi
  if booted; then
    systemctl daemon-reload
  fi
}

# After an upgrade: running members go on with the old program unless /etc/default/kvnode asks otherwise.
upgraded() {
  if booted && grep -qs '^RESTART_ON_UPGRADE=yes$' /etc/default/kvnode; then
    systemctl try-restart kvnode.service 'kvnode@*.service'
  fi
}

# Before the files of a package that goes for good are removed.
removing() {
  if booted; then
    systemctl stop kvnode-backup.timer kvnode.service 'kvnode@*.service'
  fi
  if command -v systemctl >/dev/null; then
    systemctl --no-reload disable kvnode.service kvnode-backup.timer >/dev/null 2>&1 || true
  fi
}

# After they are gone. Data, backups and the user stay.
removed() {
  if booted; then
    systemctl daemon-reload
  fi
}
