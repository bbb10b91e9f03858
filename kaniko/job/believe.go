package job

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"towpath.dev/towpath/kaniko/console"
)

// The Job controller's own labels of a template and its selector.
var controllers = []string{batchv1.ControllerUidLabel, batchv1.JobNameLabel, "controller-uid", "job-name"}

// jobDiffers says where a live Job is not the one that we rendered; empty: it
// is. What the API server and the Job controller add is passed over, and so is
// what can be changed without changing the build: how long the Job is kept, and
// words of others about it.
func jobDiffers(live, want *batchv1.Job) string {
	got, rendered := live.Spec.DeepCopy(), want.Spec.DeepCopy()
	selected := map[string]string{batchv1.ControllerUidLabel: string(live.UID)}
	if got.Selector == nil || len(got.Selector.MatchExpressions) > 0 || !maps.Equal(got.Selector.MatchLabels, selected) {
		return "spec.selector: want the pods of the Job and no other"
	}
	got.Selector, got.TTLSecondsAfterFinished = nil, nil
	// Servers of other versions do not know these, or do not fill them in.
	got.ManualSelector = or(got.ManualSelector, rendered.ManualSelector)
	got.PodReplacementPolicy = or(got.PodReplacementPolicy, rendered.PodReplacementPolicy)
	for _, label := range controllers {
		delete(got.Template.Labels, label)
	}
	for _, of := range []struct {
		what      string
		got, want map[string]string
	}{
		{"metadata.labels", live.Labels, want.Labels},
		{"metadata.annotations", live.Annotations, want.Annotations},
	} {
		if key := lacks(of.got, of.want); key != "" {
			return of.what + "." + key + ": " + differing(of.got[key], of.want[key])
		}
	}
	return differs("spec", got, rendered)
}

// podDiffers says where a pod is not what a Job's template asks for; empty: it is.
// What a cluster decides about pods is not compared: on which node it runs, its
// priority, its SELinux label, and its resources.
func podDiffers(pod *corev1.Pod, job *batchv1.Job) string {
	owner := metav1.GetControllerOf(pod)
	if owner == nil || owner.UID != job.UID || owner.Kind != "Job" {
		return fmt.Sprintf("metadata.ownerReferences: want Job %s %s as its controller", job.Name, job.UID)
	}
	template := job.Spec.Template
	if key := lacks(pod.Annotations, template.Annotations); key != "" {
		return "metadata.annotations." + key + ": " + differing(pod.Annotations[key], template.Annotations[key])
	}
	plain := func(spec *corev1.PodSpec) *corev1.PodSpec {
		spec = spec.DeepCopy()
		spec.NodeName, spec.NodeSelector, spec.Affinity, spec.Tolerations, spec.TopologySpreadConstraints = "", nil, nil, nil, nil
		spec.Priority, spec.PriorityClassName, spec.PreemptionPolicy, spec.Overhead = nil, "", nil, nil
		spec.ImagePullSecrets, spec.Resources, spec.SchedulingGates = nil, nil, nil
		if spec.SecurityContext != nil {
			spec.SecurityContext.SELinuxOptions = nil // some clusters give each namespace a label of its own
		}
		for _, containers := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
			for i := range containers {
				containers[i].Resources, containers[i].ResizePolicy = corev1.ResourceRequirements{}, nil
				if containers[i].SecurityContext != nil {
					containers[i].SecurityContext.SELinuxOptions = nil
				}
			}
		}
		return spec
	}
	return differs("spec", plain(&pod.Spec), plain(&template.Spec))
}

// imageDiffers says which of a pod's containers ran another image than the one
// pinned in its spec; empty: none. The kubelet names what it ran by digest.
func imageDiffers(pod *corev1.Pod) string {
	pins := map[string]string{}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		pins[c.Name] = c.Image
	}
	for _, status := range statuses(pod) {
		if status.State.Terminated == nil && status.State.Running == nil {
			continue
		}
		want, err := Pinned(pins[status.Name])
		if err != nil {
			return fmt.Sprintf("%s: %v", status.Name, err)
		}
		_, ran, _ := strings.Cut(status.ImageID, "@")
		if ran != want {
			return fmt.Sprintf("the node says that %s ran %s, and its image is %s", status.Name, or(line(status.ImageID), "an image without a digest"), want)
		}
	}
	return ""
}

// lacks is the first key that got does not have as want has it; empty: none.
func lacks(got, want map[string]string) string {
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if value, ok := got[key]; !ok || value != want[key] {
			return key
		}
	}
	return ""
}

// differs says where two specs differ; empty: nowhere.
func differs(at string, got, want any) string {
	if equality.Semantic.DeepEqual(got, want) {
		return ""
	}
	tree := func(spec any) any {
		var plain any
		if encoded, err := json.Marshal(spec); err == nil {
			_ = json.Unmarshal(encoded, &plain)
		}
		return plain
	}
	if place := firstDifference(at, tree(got), tree(want)); place != "" {
		return place
	}
	return at + ": differs"
}

// firstDifference compares two trees of JSON.
func firstDifference(at string, got, want any) string {
	switch want := want.(type) {
	case map[string]any:
		if got, ok := got.(map[string]any); ok {
			keys := slices.Sorted(maps.Keys(want))
			for key := range got {
				if _, both := want[key]; !both {
					keys = append(keys, key)
				}
			}
			for _, key := range keys {
				if place := firstDifference(at+"."+key, got[key], want[key]); place != "" {
					return place
				}
			}
			return ""
		}
	case []any:
		if got, ok := got.([]any); ok && len(got) == len(want) {
			for i := range want {
				if place := firstDifference(fmt.Sprintf("%s[%d]", at, i), got[i], want[i]); place != "" {
					return place
				}
			}
			return ""
		}
	}
	if reflect.DeepEqual(got, want) {
		return ""
	}
	return at + ": " + differing(got, want)
}

func differing(got, want any) string {
	show := func(value any) string {
		if value == nil || value == "" {
			return "nothing"
		}
		encoded, err := json.Marshal(value)
		if err != nil {
			return "something"
		}
		return console.Cut(console.Clean(encoded), 120)
	}
	return fmt.Sprintf("found %s, want %s", show(got), show(want))
}
