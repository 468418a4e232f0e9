# A task of Windows that trains, and goes on by itself after a power cut or a restart for updates.
#
#   start:   powershell -ExecutionPolicy Bypass -File examples\launch\windows_task.ps1 -DatasetCode beauty
#   follow:  Get-Content llamarec-beauty.log -Wait; llamarec checkpoints list beauty
#   stop:    Disable-ScheduledTask llamarec-beauty; Stop-ScheduledTask llamarec-beauty
#            (what was trained since the last save is lost; Enable- and Start-ScheduledTask go on)
#   remove:  Unregister-ScheduledTask llamarec-beauty
param(
    [string]$DatasetCode = "beauty",
    [string]$Flags = "",
    [string]$Folder = (Resolve-Path "$PSScriptRoot\..\..").Path,
    [string]$Python = "$Folder\.venv\Scripts\python.exe"
)
$ErrorActionPreference = "Stop"

$name = "llamarec-$DatasetCode"
$launch = "`"$Python`" -m llamarec.cli.main launch --until_done -- `"$Python`""
$train = "$launch train_ranker.py --dataset_code $DatasetCode --resume_from_checkpoint --train_retriever true $Flags"
$action = New-ScheduledTaskAction -Execute "cmd.exe" -Argument "/c `"$train >> $name.log 2>&1`"" -WorkingDirectory $Folder

# At each start of the machine; a task that has finished its training ends at once.
$atStart = New-ScheduledTaskTrigger -AtStartup
$settings = New-ScheduledTaskSettingsSet -StartWhenAvailable -MultipleInstances IgnoreNew `
    -ExecutionTimeLimit ([TimeSpan]::Zero) -AllowStartIfOnBatteries -DontStopIfGoingOnBatteries
$user = New-ScheduledTaskPrincipal -UserId "$env:USERDOMAIN\$env:USERNAME" -LogonType S4U -RunLevel Limited

Register-ScheduledTask -TaskName $name -Action $action -Trigger $atStart -Settings $settings -Principal $user | Out-Null
Start-ScheduledTask -TaskName $name
Write-Output "$name runs; its output is in $Folder\$name.log"
