{{- define "hydra.labels" -}}
app.kubernetes.io/name: hydra
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "hydra.image" -}}
image: {{ printf "%s:%s" .Values.image.repository .Values.image.tag | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end }}

{{- /* A container without capabilities and with a read-only root file system. */ -}}
{{- define "hydra.confined" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{- /* Who sees all processes of the node may also look into them: at their files (SYS_PTRACE), whoever they run as. */ -}}
{{- define "hydra.watchful" -}}
{{- include "hydra.confined" . }}
    add: [SYS_PTRACE, DAC_READ_SEARCH]
{{- if semverCompare ">=1.30-0" .Capabilities.KubeVersion.Version }}
  # the usual profile lets a container look into those of the same profile only
  appArmorProfile: {type: Unconfined}
{{- end }}
{{- end }}

{{- /* Pages of a tmpfs are charged to whoever writes them: memory is that of the programs and all of RAM's. */ -}}
{{- define "hydra.nodeResources" -}}
{{- $ram := int .Values.ram.sizeMi -}}
{{- $memory := dict "requests" (dict "memory" (printf "%dMi" (add (int .Values.node.memoryMi) $ram))) -}}
{{- with int .Values.node.memoryLimitMi -}}
{{- $_ := set $memory "limits" (dict "memory" (printf "%dMi" (add . $ram))) -}}
{{- end -}}
{{- toYaml (merge $memory .Values.node.resources) -}}
{{- end }}

{{- define "hydra.serverAddress" -}}
{{- if .Values.consul.embedded -}}
{{- .Values.consul.embeddedClusterIP | default (printf "%s-consul.%s.svc" .Release.Name .Release.Namespace) -}}
{{- end -}}
{{- end }}

{{- define "hydra.plannerConsul" -}}
{{- if .Values.consul.address -}}
{{- .Values.consul.address -}}
{{- else if .Values.consul.embedded -}}
{{- printf "http://%s:8500" (include "hydra.serverAddress" .) -}}
{{- else -}}
{{- fail "consul.address: the HTTP API of your Consul servers, for the planner; or consul.embedded=true for trying out" -}}
{{- end -}}
{{- end }}

{{- /* Not empty where Hydra is to write on nodes. */ -}}
{{- define "hydra.marks" -}}
{{- if or .Values.node.startupTaint .Values.node.filledLabels }}true{{ end -}}
{{- end }}

{{- define "hydra.environment" -}}
- {name: HYDRA_KUBERNETES, value: "1"}
- {name: HYDRA_ENV, value: {{ .Values.environment | quote }}}
{{- range $name, $value := .Values.env }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}
