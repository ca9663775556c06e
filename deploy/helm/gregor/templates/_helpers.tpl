{{- define "gregor.labels" -}}
app.kubernetes.io/name: gregor
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .service }}
{{- end }}

{{- define "gregor.meta" -}}
{{ include "gregor.labels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{/* The secrets of a service: variable → {name, key}. Each service gets only those that it reads. */}}
{{- define "gregor.secrets" -}}
{{- $all := .root.Values.secrets -}}
{{- $own := (index .root.Values .service).redisUrl -}}
{{- $redis := ternary $own $all.redisUrl (not (empty $own)) -}}
{{- $queue := $all.queueUrl -}}
{{- $found := dict "REDIS_URL_FILE" $redis "QUEUE_URL_FILE" $queue -}}
{{- if has .service (list "ingest" "gateway") -}}
{{- $_ := set $found "TOKEN_SECRET_FILE" $all.tokenSecret -}}
{{- end -}}
{{- if has .service (list "ingest" "delivery") -}}
{{- $_ := set $found "LINK_SECRET_FILE" (default $all.tokenSecret $all.linkSecret) -}}
{{- $_ := set $found "VAPID_KEY_FILE" $all.vapidKey -}}
{{- end -}}
{{- if eq .service "delivery" -}}
{{- $_ := set $found "SMTP_URL_FILE" $all.smtpUrl -}}
{{- $_ := set $found "APNS_KEY_FILE" $all.apnsKey -}}
{{- $_ := set $found "FCM_CREDENTIALS_FILE" $all.fcmCredentials -}}
{{- end -}}
{{- range $name, $ref := $found }}{{ if empty $ref }}{{ $_ := unset $found $name }}{{ end }}{{ end -}}
{{- toJson $found -}}
{{- end }}

{{/* The name of an object of a service. */}}
{{- define "gregor.name" -}}
{{ printf "%s-%s" .root.Release.Name .service | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "gregor.podSpec" -}}
automountServiceAccountToken: false
# Kubernetes would add GREGOR_INGEST_PORT and others for each Service whose name begins with gregor-.
enableServiceLinks: false
terminationGracePeriodSeconds: {{ .root.Values.terminationGracePeriodSeconds }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  # The files of secrets belong to this group.
  fsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
topologySpreadConstraints:
  {{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    # A full zone must not stop a deployment.
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "gregor.labels" $ | nindent 8 }}
  {{- end }}
containers:
  - name: {{ .service }}
    image: "{{ .root.Values.image.repository }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}"
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    args: [{{ .service }}]
    envFrom:
      - configMapRef: {name: {{ .root.Release.Name }}-settings}
    env:
      {{- range $name, $ref := include "gregor.secrets" . | fromJson }}
      - {name: GREGOR_{{ $name }}, value: /run/secrets/gregor/{{ $name }}}
      {{- end }}
      {{- with .root.Values.extraEnv }}{{ toYaml . | nindent 6 }}{{ end }}
    ports:
      {{- if eq .service "ingest" }}
      - {name: http, containerPort: 8700}
      {{- else if eq .service "gateway" }}
      - {name: websocket, containerPort: 8701}
      - {name: streams, containerPort: 8702}
      {{- end }}
      - {name: admin, containerPort: 8709}
    startupProbe:
      httpGet: {path: /readyz, port: admin}
      periodSeconds: 1
      failureThreshold: 60
    readinessProbe:
      httpGet: {path: /readyz, port: admin}
      periodSeconds: 2
      failureThreshold: 1
    # /healthz never asks Redis: while Redis is away, restarts would only add a reconnect storm.
    livenessProbe:
      httpGet: {path: /healthz, port: admin}
      periodSeconds: 10
      failureThreshold: 6
      timeoutSeconds: 5
    resources: {{- toYaml (index .root.Values .service).resources | nindent 6 }}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL]}
    volumeMounts:
      - {name: secrets, mountPath: /run/secrets/gregor, readOnly: true}
      {{- with .root.Values.extraVolumeMounts }}{{ toYaml . | nindent 6 }}{{ end }}
volumes:
  - name: secrets
    projected:
      defaultMode: 0440
      sources:
        {{- range $name, $ref := include "gregor.secrets" . | fromJson }}
        - secret: {name: {{ $ref.name }}, items: [{key: {{ $ref.key }}, path: {{ $name }}}]}
        {{- end }}
  {{- with .root.Values.extraVolumes }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end }}

{{/* The port of a URL. */}}
{{- define "gregor.urlPort" -}}
{{- $url := urlParse . -}}
{{ regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (ternary "443" "80" (eq $url.scheme "https")) }}
{{- end }}
