package sandbox

// DirID is how the work directory's cgroups begin.
var DirID = dirID
