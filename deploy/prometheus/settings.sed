# What is yours in the alerts: change the right-hand sides here, and nothing in the rules.
#
#   sed -f settings.sed alerts.rules.yml >/etc/prometheus/archive-mirror/alerts.rules.yml

# Where people read docs/runbook.md; each alert adds #, and its name in lower case.
s|file:///usr/share/doc/archive-mirror/runbook.md|file:///usr/share/doc/archive-mirror/runbook.md|

# What you call footage that is in danger now, and what can wait for a day.
s|severity: critical|severity: critical|
s|severity: warning|severity: warning|
